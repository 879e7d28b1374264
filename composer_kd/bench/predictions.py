"""Predictions of models on the evaluation data, their accuracy, and the share on which two models agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from composer_kd.batches.contents import IGNORE
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.layout import layout_of, several_labels
from composer_kd.batches.masks import aligned_labels, valid_of
from composer_kd.bench.failures import is_out_of_memory

__all__ = ['TopClasses', 'accuracy', 'answer', 'first_samples', 'merged', 'same', 'size_of']

PLAIN = BatchFormat()
AT_ONCE = 64
"""Samples per forward pass."""


@dataclass(frozen=True)
class TopClasses:
    """The predictions of one model: the class with the largest logit, for each sample, position or pixel.

    They are stored batch by batch, like the labels and masks, and are small enough to be kept for all models of a
    benchmark. The :class:`composer_kd.reports.Predictions` of a report also hold probabilities, for labelled samples
    only, in one array over the whole evaluation set.

    Attributes:
        top: The predicted classes of each batch: a tensor over samples, or over samples and positions.
        classes: The number of classes.
        finite: Whether all logits are finite.
        no_class: Whether the largest logit is no prediction: samples have several labels, or answers are vectors.
    """

    top: list[Tensor]
    classes: int
    finite: bool
    no_class: bool = False


def answer(
    call: Callable[..., Tensor],
    inputs: Iterable[tuple[Tensor, ...]],
    batches: Sequence[Any],
    device: torch.device,
    form: BatchFormat = PLAIN,
) -> TopClasses:
    """Computes the predictions of a model.

    Args:
        call: The model: takes tensors on the device and returns logits.
        inputs: The input tensors of each batch, on the CPU.
        batches: The batches that the inputs belong to.
        device: The device that the model runs on.
        form: The format of the batches.

    Returns:
        The predictions, on the CPU.
    """
    return merged([call], [inputs], batches, device, form)


def merged(
    calls: Sequence[Callable[..., Tensor]],
    inputs: Sequence[Iterable[tuple[Tensor, ...]]],
    batches: Sequence[Any],
    device: torch.device,
    form: BatchFormat = PLAIN,
) -> TopClasses:
    """Computes the predictions of the mean logits of several models.

    Args:
        calls: The models: each takes tensors on the device and returns logits.
        inputs: For each model, the input tensors of each batch, on the CPU.
        batches: The batches that the inputs belong to.
        device: The device that the models run on.
        form: The format of the batches.

    Returns:
        The predictions, on the CPU.
    """
    top, classes, finite, no_class = [], 0, True, form.embeds
    for batch, *tensors in zip(batches, *inputs):
        parts = []
        for start in range(0, size_of(batch), AT_ONCE):
            logits = _mean(
                [
                    _logits(call, tuple(one[start : start + AT_ONCE] for one in own), device)
                    for call, own in zip(calls, tensors)
                ]
            )
            layout = layout_of(logits, _cut(batch, size_of(batch), len(logits)), form)
            classes, finite = layout.classes, finite and bool(logits.isfinite().all())
            parts.append(layout.rows(logits).argmax(-1).cpu())
            shape = logits.shape[1:]
        top.append(torch.cat(parts))
        no_class = no_class or several_labels(batch, torch.empty(len(top[-1]), *shape, device='meta'))
    return TopClasses(top, classes, finite, no_class)


def _mean(logits: Sequence[Tensor]) -> Tensor:
    return logits[0] if len(logits) == 1 else torch.stack([one.float() for one in logits]).mean(0)


def _logits(call: Callable[..., Tensor], inputs: tuple[Tensor, ...], device: torch.device) -> Tensor:
    """Computes the logits, and halves the batch when memory runs out."""
    try:
        return call(*(tensor.to(device) for tensor in inputs))
    except Exception as error:
        if len(inputs[0]) == 1 or not is_out_of_memory(error):
            raise
    half = len(inputs[0]) // 2
    parts = (tuple(tensor[:half] for tensor in inputs), tuple(tensor[half:] for tensor in inputs))
    return torch.cat([_logits(call, part, device) for part in parts])


def accuracy(answers: TopClasses, batches: Sequence[Any], form: BatchFormat = PLAIN) -> float | None:
    """Computes the share of correct predictions.

    Args:
        answers: The predictions of a model.
        batches: The batches, with labels.
        form: The format of the batches: whether position ``i`` predicts label ``i + 1``, which label is ignored.

    Returns:
        The share among all samples or positions with a label other than -100; ``None`` if there are none, if the
        model has a single class, or if the largest logit is no prediction.
    """
    right = total = 0
    for top, batch in zip(answers.top, batches):
        labels = aligned_labels(batch, form)
        if labels is None or labels.numel() != top.numel():
            continue
        labels = labels.reshape(top.shape)
        known = labels != IGNORE
        right, total = right + int((top == labels)[known].sum()), total + int(known.sum())
    return right / total if total and answers.classes > 1 and not answers.no_class else None


def same(answers: TopClasses, others: TopClasses, batches: Sequence[Any], form: BatchFormat = PLAIN) -> float | None:
    """Computes the share of samples or positions for which two models predict the same class.

    Args:
        answers: The predictions of one model.
        others: The predictions of the other model.
        batches: The batches. For token models, the positions with a label count or, without labels, those with
            attention mask 1.
        form: The format of the batches: whether position ``i`` predicts label ``i + 1``, which label is ignored.

    Returns:
        The share; ``None`` if the models differ in the number of classes, have a single class, if the largest logit is
        no prediction, or no position counts.
    """
    agreed = total = 0
    for top, other, batch in zip(answers.top, others.top, batches):
        if top.shape != other.shape or answers.classes != others.classes or answers.classes < 2 or answers.no_class:
            return None
        counts = _counting(top, batch, form)
        agreed, total = agreed + int((top == other)[counts].sum()), total + int(counts.sum())
    return agreed / total if total else None


def _counting(top: Tensor, batch: Any, form: BatchFormat) -> Tensor:
    valid = valid_of(batch, form)
    mask = None if valid is None else valid.mask
    if mask is None or top.ndim < 2 or mask.numel() != top.numel():
        return torch.ones_like(top, dtype=torch.bool)
    return mask.reshape(top.shape)


def first_samples(batches: Iterable[Any], samples: int | None) -> list[Any]:
    """Keeps the first samples of the data.

    Args:
        batches: Tensors, sequences or mappings of tensors.
        samples: The largest number of samples; ``None`` for all.

    Returns:
        The batches; the last one is truncated if necessary.

    Example:
        >>> [size_of(batch) for batch in first_samples([torch.zeros(4), torch.zeros(4)], 6)]
        [4, 2]
    """
    kept: list[Any] = []
    left = samples
    for batch in batches:
        size = size_of(batch)
        if left is None or left >= size:
            kept.append(batch)
        elif left:
            kept.append(_cut(batch, size, left))
        left = None if left is None else max(0, left - size)
        if left == 0:
            break
    return kept


def size_of(batch: Any) -> int:
    """Counts the samples of a batch.

    Example:
        >>> size_of({'input_ids': torch.zeros(3, 7), 'labels': torch.zeros(3)})
        3
    """
    parts = batch.values() if isinstance(batch, Mapping) else [batch] if isinstance(batch, Tensor) else batch
    return next((len(part) for part in parts if isinstance(part, Tensor) and part.ndim), 0)


def _cut(batch: Any, size: int, to: int) -> Any:
    def part(value: Any) -> Any:
        return value[:to] if hasattr(value, '__len__') and len(value) == size else value

    if isinstance(batch, Tensor):
        return batch[:to]
    if isinstance(batch, Mapping):
        return {key: part(value) for key, value in batch.items()}
    return tuple(part(value) for value in batch)
