"""The input of a report, as plain data: models, evaluation data, timings and environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from composer_kd.bench import BenchResults, Candidate
from composer_kd.reports.token_loss import TokenLosses

__all__ = ['Predictions', 'Curve', 'EvaluationSet', 'Evidence', 'ModelEvidence']


@dataclass(frozen=True)
class Predictions:
    """The predictions of a classifier for each labelled sample of the evaluation set.

    They include the probabilities from which calibration and loss are computed. A benchmark, which also compares models
    of tokens and pixels, stores the top classes only (``composer_kd.bench.predictions.TopClasses``).

    Args:
        predicted: ``(N,)`` The predicted class.
        confidence: ``(N,)`` The probability of the predicted class.
        nll: ``(N,)`` The negative log-likelihood of the label, in nats.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    nll: np.ndarray


@dataclass(frozen=True)
class Curve:
    """One quantity over training.

    Args:
        batches: ``(T,)`` The numbers of batches after which it was logged, in rising order.
        values: ``(T,)`` The logged values.
    """

    batches: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class EvaluationSet:
    """The data on which the models were evaluated.

    Args:
        description: The data, in words.
        labels: ``(N,)`` The labels of the labelled samples; empty if the models are not classifiers.
        classes: The name of each class.
        unlabelled: The number of samples that were left out because they have no label.
        left_out: The reason why there are no predictions to compare; None if there are.
    """

    description: str
    labels: np.ndarray
    classes: tuple[str, ...]
    unlabelled: int = 0
    left_out: str | None = None


@dataclass(frozen=True)
class ModelEvidence:
    """The data about one model of the comparison, from one run.

    Args:
        candidate: The model: its name, its role, its teachers among the models, and how it is built.
        parameters: The number of its parameters.
        file_bytes: The size of its state dict on disk, in bytes.
        flops: Floating-point operations for one sample; None if they cannot be counted.
        answers: Its predictions on the evaluation set; None if they are left out (see ``EvaluationSet.left_out``).
        settings: All settings of its run; for a teacher that is only part of another run's settings, just ``model``.
        without_effect: The dotted keys of the settings that do not affect what is learned, and the key of the seed.
        distilled_by: The keys under ``algorithms`` of the algorithms that distilled it.
        metrics: The final metrics of its run, under the names by which Composer logs them.
        curves: ``'task'``, ``'kd'`` and ``'accuracy'`` over training, as far as they were logged.
        checkpoint: The path or URI of its weights; None if they do not come from a checkpoint.
        command: The command that trains it again; None if unknown.
        token_losses: For a language model, its cross-entropy on each text; None for other models.
    """

    candidate: Candidate
    parameters: int
    file_bytes: int
    flops: float | None = None
    answers: Predictions | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()
    distilled_by: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    checkpoint: str | None = None
    command: str | None = None
    token_losses: TokenLosses | None = None

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.candidate.name

    @property
    def role(self) -> str:
        """The role of the model: ``TEACHER``, ``ALONE`` or ``DISTILLED``."""
        return self.candidate.role

    @property
    def taught_by(self) -> tuple[str, ...]:
        """The names of its teachers among the models."""
        return self.candidate.taught_by

    @property
    def is_run(self) -> bool:
        """Whether the settings are those of a run of its own."""
        return 'train_loader' in self.settings

    @property
    def seed(self) -> int | None:
        """The seed of its run; None if unknown."""
        return self.settings.get('seed')


@dataclass(frozen=True)
class Evidence:
    """All data from which a report is built.

    Args:
        models: The data about each model, teachers first.
        evaluation: The data on which they were evaluated.
        bench: Their timings; None if they were not measured.
        bench_source: The source of the timings, in words.
        environment: The machine and the versions with which the report is built.
        command: The command that builds the report.
        notes: What is missing, and why.
        created: The time of the report, in words.
    """

    models: tuple[ModelEvidence, ...]
    evaluation: EvaluationSet
    bench: BenchResults | None = None
    bench_source: str = ''
    environment: dict[str, Any] = field(default_factory=dict)
    command: str = ''
    notes: tuple[str, ...] = ()
    created: str = ''
