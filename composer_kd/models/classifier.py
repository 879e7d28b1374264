"""Composer's classifier for batches that also tell which samples they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from composer.models import ComposerClassifier
from torch import Tensor
from torchmetrics import Metric

__all__ = ['IndexedClassifier']


class IndexedClassifier(ComposerClassifier):
    """A ``ComposerClassifier`` that takes triples ``(x, y, index)`` too: what :class:`composer_kd.data.Indexed` makes.

    The index is for a distillation loss that remembers samples; the model itself sees ``x``, the loss and the metrics
    see ``y``. Pairs are taken as ever, and checkpoints are those of a ``ComposerClassifier``. For the arguments see
    there.

    Example:
        >>> import torch
        >>> model = IndexedClassifier(torch.nn.Linear(4, 3), num_classes=3)
        >>> batch = torch.zeros(2, 4), torch.tensor([0, 2]), torch.tensor([17, 4])
        >>> tuple(model(batch).shape), model.loss(model(batch), batch).ndim
        ((2, 3), 0)
    """

    takes_index = True  # by which Distillation knows what the third of a triple is

    def forward(self, batch: Sequence[Any]) -> Tensor:
        """Computes logits ``(B, num_classes)`` from the first part of a batch."""
        return super().forward(_pair(batch))

    def loss(self, outputs: Tensor, batch: Sequence[Any], *args: Any, **kwargs: Any) -> Tensor:
        """Compares logits with the second part of a batch."""
        return super().loss(outputs, _pair(batch), *args, **kwargs)

    def update_metric(self, batch: Sequence[Any], outputs: Tensor, metric: Metric) -> None:
        """Updates a metric with logits and the second part of a batch."""
        super().update_metric(_pair(batch), outputs, metric)


def _pair(batch: Sequence[Any]) -> tuple[Any, Any]:
    inputs, targets, *index = batch
    if len(index) > 1:
        raise ValueError(f'IndexedClassifier: expected a batch (x, y) or (x, y, index), got {len(batch)} parts')
    return inputs, targets
