"""The settings and the results of the demo."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scipy.stats import t  # type: ignore[import-untyped]

__all__ = ['Entry', 'Results', 'Settings']


@dataclass(frozen=True)
class Settings:
    """The settings of the demo; both students are trained on the same number of batches of the same size.

    Args:
        n_labels: The number of labelled images of a student; the distilled student also gets the other training images,
            without their labels.
        teacher_epochs: The epochs of the teacher, over all training images with their labels.
        student_epochs: The epochs of each student; an epoch has as many images as the training set.
        batch_size: The number of samples in a batch.
        temperature: The temperature of the distillation loss.
    """

    n_labels: int = 40
    teacher_epochs: int = 20
    student_epochs: int = 30
    batch_size: int = 64
    temperature: float = 4.0


@dataclass
class Entry:
    """One model of the comparison, with one run for each seed.

    Args:
        name: The model's name in the table.
        learns_from: The source of supervision, for the table: labels, or labels and a teacher.
        curves: For each run, the test accuracy after each epoch; the result is the last value, not the best.
        parameters: The number of parameters.
        size: The size of the state dict on disk, in bytes.
        latency: The median time for one image, in seconds.
    """

    name: str
    learns_from: str
    curves: list[list[float]] = field(default_factory=list)
    parameters: int = 0
    size: int = 0
    latency: float = 0.0

    @property
    def accuracies(self) -> list[float]:
        """The accuracy of each run after its last epoch."""
        return [curve[-1] for curve in self.curves]

    @property
    def accuracy(self) -> float:
        """The mean of ``accuracies``."""
        return statistics.fmean(self.accuracies)

    @property
    def standard_error(self) -> float | None:
        """The standard error of ``accuracy``; ``None`` for a single run."""
        return _standard_error(self.accuracies)


@dataclass
class Results:
    """The results of the demo.

    Args:
        settings: The settings of the demo.
        samples: The numbers of training and test images.
        teacher: The teacher, with a single run.
        alone: The student without a teacher.
        distilled: The student with the teacher; the same architecture, seeds and labels.
        seconds: The duration of the whole demo.
    """

    settings: Settings
    samples: tuple[int, int]
    teacher: Entry
    alone: Entry
    distilled: Entry
    seconds: float = 0.0

    @property
    def entries(self) -> list[Entry]:
        """The teacher, the student alone and the distilled student: the rows of the table."""
        return [self.teacher, self.alone, self.distilled]

    @property
    def gains(self) -> list[float]:
        """The accuracy of the distilled student minus that of the student alone, for each seed."""
        return [d - a for d, a in zip(self.distilled.accuracies, self.alone.accuracies)]

    @property
    def gain_error(self) -> float | None:
        """The standard error of the mean gain; ``None`` for a single seed."""
        return _standard_error(self.gains)

    @property
    def gain_interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean gain over seeds (Student's t); ``None`` for a single seed."""
        if self.gain_error is None:
            return None
        mean = statistics.fmean(self.gains)
        reach = float(t.ppf(0.975, len(self.gains) - 1)) * self.gain_error
        return mean - reach, mean + reach

    def as_mapping(self) -> dict[str, Any]:
        """Converts settings, entries and gains to a mapping for JSON."""
        rows = [
            {**asdict(entry), 'accuracy': entry.accuracy, 'standard_error': entry.standard_error}
            for entry in self.entries
        ]
        found = {
            'gain': statistics.fmean(self.gains),
            'gain_standard_error': self.gain_error,
            'gain_interval_95': self.gain_interval,
            'seconds': self.seconds,
        }
        return {'settings': asdict(self.settings), 'samples': self.samples, 'models': rows, **found}


def _standard_error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
