"""Counts the valid positions of a whole batch, over all its microbatches and ranks."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.utils._pytree import tree_leaves

from composer_kd.batches.format import BatchFormat
from composer_kd.batches.masks import Valid, all_valid, labelled, samples_of, source_of, tokens_of, valid_of

__all__ = ['BatchCount', 'plus_zero', 'weighed']


class BatchCount:
    """The mean number of valid positions per sample of a whole batch over all ranks; microbatches are weighted by it.

    Args:
        world_size: The number of ranks.
        form: The format of the batches.
        of_tokens: Whether to count the valid tokens of hidden states too.
        taught: Says which samples are distilled, booleans ``(B, ...)``, from a batch as the run has it, as models take
            it, and the samples' numbers; ``None`` if all are. Others count for ``task`` alone.
        group: The process group of these ranks; ``None`` for all ranks of the run.

    Attributes:
        taught: The fraction of samples that are distilled; ``None`` if all are.
        answers: Valid positions of logits per sample, a float32 scalar tensor; ``None`` if no correction is needed.
        task: Positions with a label per sample, likewise.
        tokens: Valid tokens of hidden states per sample, likewise.
        source: Valid tokens of an encoder-decoder's encoder per sample, likewise.
    """

    def __init__(
        self,
        world_size: int = 1,
        form: BatchFormat | None = None,
        of_tokens: bool = False,
        taught: Callable[[Any, Any, Tensor | None], Tensor] | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        self._number, self._says_taught, self._group = -1, taught, group
        self._world_size, self._form, self._of_tokens = world_size, form or BatchFormat(), of_tokens
        self._clear()

    def _clear(self) -> None:
        self.taught: Tensor | None = None
        self.answers: Tensor | None = None
        self.task: Tensor | None = None
        self.tokens: Tensor | None = None
        self.source: Tensor | None = None

    def is_needed(self, state: State, batch: Any) -> bool:
        """Whether the batch is split between ranks or microbatches, so that its valid positions must be counted."""
        if self._world_size > 1 or state.auto_microbatching or self._says_taught is not None:
            return True
        samples, size = samples_of(batch), state.device_train_microbatch_size
        return samples is not None and isinstance(size, numbers.Real) and samples > size

    def count(self, state: State, batch: Any, index: Tensor | None = None) -> None:
        """Counts the valid positions of a whole batch; a collective call if there are several ranks.

        Args:
            state: The state of the run.
            batch: This rank's whole batch, as models take it.
            index: ``(B,)`` The samples' numbers in the data set, if they are known.
        """
        self._number = state.timestamp.batch.value
        self._clear()
        found: dict[str, Valid | None] = {}
        taught: Tensor | None = None
        if self._says_taught is not None:
            taught = self._says_taught(state.batch, batch, index).flatten(1).any(1)
            found['taught'] = Valid.of(taught, False)
        if self._world_size > 1 or not all_valid(batch, self._form):
            found.update(answers=_at(valid_of(batch, self._form), taught), task=labelled(batch, self._form))
        if self._of_tokens:
            tokens, source = tokens_of(batch, self._form), source_of(batch, self._form)
            found.update(tokens=_at(tokens, taught), source=_at(source, taught))
        found = {name: valid for name, valid in found.items() if valid is not None and valid.mask is not None}
        if not found:
            return
        counts = [torch.stack([valid.count.float(), torch.full_like(valid.count, valid.size, dtype=torch.float32)])
                  for valid in found.values() if valid is not None]  # fmt: skip
        both = torch.stack([state.device.tensor_to_device(one) for one in counts])
        if self._world_size > 1:
            dist.all_reduce(both, reduce_operation='SUM', group=self._group)
        for name, (count, samples) in zip(found, both):
            setattr(self, name, (count / samples.clamp_min(1.0)).clamp_min(torch.finfo(torch.float32).tiny))

    def forget(self, number: int) -> None:
        """Discards the counts unless they belong to the batch with this number."""
        if number != self._number:
            self._clear()


def _at(valid: Valid | None, samples: Tensor | None) -> Valid | None:
    """The valid positions of some samples, booleans ``(B,)``; of all for ``None``."""
    if valid is None or valid.mask is None or samples is None:
        return valid
    return Valid.of(valid.mask[samples.to(valid.mask.device)], valid.from_labels)


def weighed(task: Tensor, outputs: Any, valid: Valid, share: Tensor | None) -> Tensor:
    """Rescales the task loss from a mean over the labels of a microbatch to its share of the mean over the whole batch.

    Args:
        task: The model's own loss of the microbatch, a scalar.
        outputs: The outputs of the model.
        valid: The positions with a label in the microbatch.
        share: Their factor, from :meth:`.Valid.share`; ``None`` if no correction is needed.

    Returns:
        The rescaled loss, a scalar; 0 if the microbatch has no valid label.
    """
    if not valid.from_labels or (valid.mask is None and share is None):
        return task  # no class labels to count: multi-label or regression targets, or none
    # A mean over zero labels is NaN, and its gradient may stay NaN when multiplied by 0.
    if task.device.type == 'cpu' and not valid.count:
        # Sums over nothing: they keep the graph of all outputs, for DDP expects a gradient for each parameter on every
        # rank. The model's own loss, which Hugging Face models return as well, is left out: it is that NaN.
        leaves = (x for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.ndim and x.is_floating_point())
        return sum((x[:0].sum() for x in leaves), start=torch.zeros(()))
    task = task if share is None else task * share
    # On an accelerator the host would wait for the count. There the gradient of cross-entropy is 0, not NaN.
    return task if task.device.type == 'cpu' else torch.where(valid.count > 0, task, torch.zeros_like(task))


def plus_zero(loss: Any, zero: Tensor) -> Any:
    """Adds a zero to a model's own loss, to keep the zero's graph in it.

    Args:
        loss: A tensor, a mapping (the zero is added to ``total``, else to the first entry), or a sequence (to the
            first).
        zero: A scalar tensor with the value 0.
    """
    if isinstance(loss, Mapping):
        key = 'total' if 'total' in loss else next(iter(loss))
        return {**loss, key: loss[key] + zero}
    return loss + zero if isinstance(loss, Tensor) else (loss[0] + zero, *loss[1:])
