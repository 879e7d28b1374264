"""Composer's classifier for batches that also contain the index of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from composer.models import ComposerClassifier
from torch import Tensor
from torchmetrics import Metric

__all__ = ['IndexedClassifier']


class IndexedClassifier(ComposerClassifier):
    """A ``ComposerClassifier`` that also accepts triples ``(x, y, index)`` from :class:`composer_kd.data.Indexed`.

    The index is for distillation losses that keep state for each sample. The model receives ``x``, loss and metrics
    receive ``y``. Pairs ``(x, y)`` work as in ``ComposerClassifier``, which has the same arguments and the same
    checkpoints.

    Example:
        >>> import torch
        >>> model = IndexedClassifier(torch.nn.Linear(4, 3), num_classes=3)
        >>> batch = torch.zeros(2, 4), torch.tensor([0, 2]), torch.tensor([17, 4])
        >>> tuple(model(batch).shape), model.loss(model(batch), batch).ndim
        ((2, 3), 0)
    """

    takes_index = True  # tells Distillation that the third part of a triple is the index

    def forward(self, batch: Sequence[Any]) -> Tensor:
        """Computes logits ``(B, num_classes)`` from the inputs ``x`` of a batch."""
        return super().forward(_pair(batch))

    def loss(self, outputs: Tensor, batch: Sequence[Any], *args: Any, **kwargs: Any) -> Tensor:
        """Computes the loss of the logits and the labels ``y`` of a batch."""
        return super().loss(outputs, _pair(batch), *args, **kwargs)

    def update_metric(self, batch: Sequence[Any], outputs: Tensor, metric: Metric) -> None:
        """Updates a metric with the logits and the labels ``y`` of a batch."""
        super().update_metric(_pair(batch), outputs, metric)


def _pair(batch: Sequence[Any]) -> tuple[Any, Any]:
    inputs, targets, *index = batch
    if len(index) > 1:
        raise ValueError(f'IndexedClassifier: expected a batch (x, y) or (x, y, index), got {len(batch)} parts')
    return inputs, targets
