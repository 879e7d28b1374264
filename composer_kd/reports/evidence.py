"""What a report is made of: plain data that whoever trained the models gathers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from composer_kd.bench import BenchResults, Candidate

__all__ = ['Predictions', 'Curve', 'EvaluationSet', 'Evidence', 'ModelEvidence']


@dataclass(frozen=True)
class Predictions:
    """What a classifier answered for the labelled samples of the evaluation set, sample by sample.

    With the probabilities that calibration and loss are made of; a benchmark, which compares models of tokens and
    pixels too, holds the first classes alone (``composer_kd.bench.predictions.TopClasses``).

    Args:
        predicted: ``(N,)`` The class that it puts first.
        confidence: ``(N,)`` The probability that it gives to that class.
        nll: ``(N,)`` Minus the logarithm of the probability that it gives to the right class, in nats.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    nll: np.ndarray


@dataclass(frozen=True)
class Curve:
    """One quantity over training.

    Args:
        batches: ``(T,)`` After how many batches it was logged, rising.
        values: ``(T,)`` What was logged.
    """

    batches: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class EvaluationSet:
    """What the models were evaluated on.

    Args:
        description: The data, in words.
        labels: ``(N,)`` The right classes, without samples that have none; empty where the models are no classifiers.
        classes: A name for each class.
        unlabelled: How many samples were left out because they have no label.
        left_out: Why there are no answers to compare; None where there are.
    """

    description: str
    labels: np.ndarray
    classes: tuple[str, ...]
    unlabelled: int = 0
    left_out: str | None = None


@dataclass(frozen=True)
class ModelEvidence:
    """What is known of one model of the comparison, from one run.

    Args:
        candidate: The model: what it is called, its role, its teachers among the models, how it is built.
        parameters: How many it has.
        file_bytes: Bytes of its state dict on disk.
        flops: Floating-point operations for one sample; None where they cannot be counted.
        answers: On the evaluation set; None where the set says why not.
        settings: All settings of its run; those of a teacher that is only named elsewhere.
        without_effect: The dotted keys of the settings that change nothing of what is learned, and that of the seed.
        distilled_by: The keys of those of its algorithms that distilled it: ``algorithms.<key>``.
        metrics: What its run noted at its end, under the names that Composer logs by.
        curves: ``'task'``, ``'kd'`` and ``'accuracy'`` over training, those that there are.
        checkpoint: Where its weights are; None where they came otherwise.
        command: What trains it again.
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

    @property
    def name(self) -> str:
        """The model's name."""
        return self.candidate.name

    @property
    def role(self) -> str:
        """The model's role: ``TEACHER``, ``ALONE`` or ``DISTILLED``."""
        return self.candidate.role

    @property
    def taught_by(self) -> tuple[str, ...]:
        """The names of the model's teachers among the models."""
        return self.candidate.taught_by

    @property
    def seed(self) -> int | None:
        """The seed of its run."""
        return self.settings.get('seed')


@dataclass(frozen=True)
class Evidence:
    """Everything that a report tells.

    Args:
        models: What is known of each model: teachers first.
        evaluation: What they answered for.
        bench: How fast they are; None where it was not measured.
        bench_source: Where those numbers come from, in words.
        environment: The machine and the versions that made this report.
        command: The command that made it.
        notes: What could not be had, and why.
        created: When, in words.
    """

    models: tuple[ModelEvidence, ...]
    evaluation: EvaluationSet
    bench: BenchResults | None = None
    bench_source: str = ''
    environment: dict[str, Any] = field(default_factory=dict)
    command: str = ''
    notes: tuple[str, ...] = ()
    created: str = ''
