"""What counts in the whole of a batch, which ranks and microbatches share."""

from __future__ import annotations

import numbers
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.validity import all_valid, samples_of, tokens_of, valid_of

__all__ = ['BatchCount']


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
