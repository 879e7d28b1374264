"""What counts in the whole of a batch, which ranks and microbatches share."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor
from torch.utils._pytree import tree_leaves

from composer_kd.batches.masks import Valid, all_valid, samples_of, tokens_of, valid_of

__all__ = ['BatchCount', 'plus_zero', 'weighed']


class BatchCount:
    """Valid positions per sample of a whole batch, over all ranks: what a microbatch's mean is weighed by.

    Attributes:
        answers: The positions whose answers count, per sample; ``None`` where all of them count alike.
        tokens: The tokens whose features count, per sample; likewise.
    """

    def __init__(self, world_size: int = 1, shift: bool = False, of_tokens: bool = False) -> None:
        self.answers: Tensor | None = None
        self.tokens: Tensor | None = None
        self._number = -1
        self._world_size, self._shift, self._of_tokens = world_size, shift, of_tokens

    def is_needed(self, state: State, batch: Any) -> bool:
        """Whether ranks or microbatches share the batch, so that what counts must be counted as a whole."""
        if self._world_size > 1 or state.auto_microbatching:
            return True
        samples, size = samples_of(batch), state.device_train_microbatch_size
        return samples is not None and isinstance(size, numbers.Real) and samples > size

    def count(self, state: State, batch: Any) -> None:
        """Counts a whole batch, as models take it."""
        self._number = state.timestamp.batch.value
        self.answers = self.tokens = None
        found = {}
        if self._world_size > 1 or not all_valid(batch, self._shift):
            found['answers'] = valid_of(batch, self._shift)
        if self._of_tokens:
            found['tokens'] = tokens_of(batch)
        found = {name: valid for name, valid in found.items() if valid is not None and valid.mask is not None}
        if not found:
            return
        both = torch.stack(
            [torch.stack([valid.count.float(), torch.full_like(valid.count, valid.size, dtype=torch.float32)])
             for valid in found.values() if valid is not None]
        )  # fmt: skip
        both = state.device.tensor_to_device(both)
        if self._world_size > 1:
            dist.all_reduce(both, reduce_operation='SUM')
        for name, (count, samples) in zip(found, both):
            setattr(self, name, (count / samples).clamp_min(torch.finfo(torch.float32).tiny))

    def forget(self, number: int) -> None:
        """Lets go of a count that was made for another batch than this."""
        if number != self._number:
            self.answers = self.tokens = None


def weighed(task: Tensor, outputs: Any, valid: Valid, share: Tensor | None) -> Tensor:
    """Corrects the task's mean over the labels here to its part in the mean over the whole batch.

    Args:
        task: The model's own loss of a microbatch.
        outputs: What the model returned.
        valid: The positions that count.
        share: What they weigh in the whole batch.
    """
    if not valid.from_labels or (valid.mask is None and share is None):
        return task  # targets that are no class labels: of several labels at once, or of a regression
    # A mean over no label is NaN, and so may its gradient be, whatever it is multiplied by.
    if task.device.type == 'cpu' and not valid.count:
        # With the graph of all outputs: other ranks' gradients reach every parameter, and wait for this one's.
        return sum((x.sum() * 0.0 for x in tree_leaves(outputs) if isinstance(x, Tensor)), start=torch.zeros(()))
    task = task if share is None else task * share
    # Elsewhere, to read the count would make the host wait. The gradient of cross-entropy is 0 there, not NaN.
    return task if task.device.type == 'cpu' else torch.where(valid.count > 0, task, torch.zeros_like(task))


def plus_zero(loss: Any, zero: Tensor) -> Any:
    """A model's own loss, whatever its form, with a zero that has a graph."""
    if isinstance(loss, Mapping):
        key = 'total' if 'total' in loss else next(iter(loss))
        return {**loss, key: loss[key] + zero}
    return loss + zero if isinstance(loss, Tensor) else (loss[0] + zero, *loss[1:])
