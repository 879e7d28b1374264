"""Metrics of what models of transformers answer, by the names that an option ``metrics`` has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from composer.metrics import BinaryF1Score, LanguageCrossEntropy, LanguagePerplexity, MaskedAccuracy
from torch import Tensor
from torchmetrics import MeanSquaredError, Metric, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
    MultilabelAccuracy,
    MultilabelF1Score,
)
from typing_extensions import override

from composer_kd.errors import ConfigError, nearest

__all__ = [
    'CLASSES',
    'LANGUAGE',
    'MASKED',
    'REGRESSION',
    'SEVERAL_LABELS',
    'LabelAccuracy',
    'LabelF1',
    'MatthewsCorrCoef',
    'metrics_of',
]

IGNORE = -100


class LabelAccuracy(MultilabelAccuracy):
    """The accuracy of several labels per sample, the mean over labels, from logits and labels of any dtype.

    The metric of torchmetrics refuses labels of floats, which the loss needs, and takes logits that happen to lie
    between 0 and 1 for probabilities.
    """

    @override
    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.sigmoid(), target.long())


class LabelF1(MultilabelF1Score):
    """The F1 score of several labels per sample, the mean over labels; like `LabelAccuracy`."""

    @override
    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.sigmoid(), target.long())


class MatthewsCorrCoef(MulticlassMatthewsCorrCoef):
    """Matthews' correlation coefficient; 0 where all predictions, or all labels, are one class, as GLUE counts it.

    The metric of torchmetrics puts a number that depends on the labels there, if there are two classes.
    """

    @override
    def compute(self) -> Tensor:
        found = super().compute()
        is_constant = ((self.confmat.sum(0) > 0).sum() < 2) | ((self.confmat.sum(1) > 0).sum() < 2)
        return torch.where(is_constant, torch.zeros_like(found), found)


class CrossEntropy(LanguageCrossEntropy):
    """The cross-entropy over labelled samples, the mean over all of them, whatever the sizes of the batches."""


Metrics = dict[str, Callable[[int], Metric]]

CLASSES: Metrics = {
    'accuracy': lambda classes: MulticlassAccuracy(classes, average='micro', ignore_index=IGNORE),
    'f1': lambda classes: (
        BinaryF1Score() if classes == 2 else MulticlassF1Score(classes, average='macro', ignore_index=IGNORE)
    ),
    'mcc': lambda classes: MatthewsCorrCoef(classes, ignore_index=IGNORE),
    'cross_entropy': lambda _: CrossEntropy(ignore_index=IGNORE),
}
"""Of one class per sample. F1 is that of class 1 if there are two, as in GLUE, and otherwise the mean over classes."""

REGRESSION: Metrics = {
    'pearson': lambda _: PearsonCorrCoef(),
    'spearman': lambda _: SpearmanCorrCoef(),
    'mse': lambda _: MeanSquaredError(),
}
SEVERAL_LABELS: Metrics = {
    'accuracy': lambda labels: LabelAccuracy(labels, average='macro'),
    'f1': lambda labels: LabelF1(labels, average='macro'),
}
LANGUAGE: Metrics = {
    'cross_entropy': lambda _: LanguageCrossEntropy(),
    'perplexity': lambda _: LanguagePerplexity(),
}
MASKED: Metrics = {**LANGUAGE, 'accuracy': lambda _: MaskedAccuracy()}


def metrics_of(kinds: Metrics, names: Sequence[str] | None, classes: int) -> list[Metric]:
    """Makes the metrics of a task.

    Args:
        kinds: Those that the task has, by name.
        names: The names of those wanted; None for all.
        classes: The number of classes, or of labels.

    Raises:
        ConfigError: If the task has no such metric.

    Example:
        >>> [type(one).__name__ for one in metrics_of(REGRESSION, ['spearman'], 1)]
        ['SpearmanCorrCoef']
    """
    for name in names or ():
        if name not in kinds:
            raise ConfigError(f'metrics: this task has no {name!r}{nearest(name, kinds)}')
    return [kinds[name](classes) for name in (kinds if names is None else dict.fromkeys(names))]
