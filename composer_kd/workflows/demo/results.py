"""What the demo trains and what it finds."""

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
    """How much is trained; both students see as many batches of the same size.

    Args:
        n_labels: Labelled images that a student gets; the other training images go to it without their label.
        teacher_epochs: Passes of the teacher over all labelled training images.
        student_epochs: Passes of each student over as many images as there are training images.
        batch_size: Samples of a batch.
        temperature: Softens the teacher's answers.
    """

    n_labels: int = 40
    teacher_epochs: int = 20
    student_epochs: int = 30
    batch_size: int = 64
    temperature: float = 4.0


@dataclass
class Entry:
    """One model of the comparison; a run is a seed.

    Args:
        name: What it is called in the table.
        learns_from: What it learns from.
        curves: For each run the accuracy on the test images after each epoch; the last one counts, never the best.
        parameters: How many parameters it has.
        size: Bytes of its state dict on disk.
        latency: Median seconds for one image.
    """

    name: str
    learns_from: str
    curves: list[list[float]] = field(default_factory=list)
    parameters: int = 0
    size: int = 0
    latency: float = 0.0

    @property
    def accuracies(self) -> list[float]:
        """Accuracy at the end of each run."""
        return [curve[-1] for curve in self.curves]

    @property
    def accuracy(self) -> float:
        """Mean over the runs."""
        return statistics.fmean(self.accuracies)

    @property
    def standard_error(self) -> float | None:
        """Standard error of that mean; None with a single run."""
        return _standard_error(self.accuracies)


@dataclass
class Results:
    """What the demo found.

    Args:
        settings: How much was trained.
        samples: Number of training and of test images.
        teacher: The teacher, one run.
        alone: The student without a teacher.
        distilled: The same student, seeds and labels with the teacher.
        seconds: How long it all took.
    """

    settings: Settings
    samples: tuple[int, int]
    teacher: Entry
    alone: Entry
    distilled: Entry
    seconds: float = 0.0

    @property
    def entries(self) -> list[Entry]:
        """The rows of the table."""
        return [self.teacher, self.alone, self.distilled]

    @property
    def gains(self) -> list[float]:
        """Distilled minus alone, for each seed: both start from the same weights and have the same labels."""
        return [d - a for d, a in zip(self.distilled.accuracies, self.alone.accuracies)]

    @property
    def gain_error(self) -> float | None:
        """Standard error of the mean gain; None with a single seed."""
        return _standard_error(self.gains)

    @property
    def gain_interval(self) -> tuple[float, float] | None:
        """Where the mean gain lies with 95 % confidence over seeds (Student's t); None with a single seed."""
        if self.gain_error is None:
            return None
        mean = statistics.fmean(self.gains)
        reach = float(t.ppf(0.975, len(self.gains) - 1)) * self.gain_error
        return mean - reach, mean + reach

    def as_mapping(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
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
