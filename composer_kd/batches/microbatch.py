"""What the losses of a run must know of a microbatch, read from it once."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from composer.core import State
from torch import Tensor, nn

from composer_kd.batches.contents import split_index
from composer_kd.batches.counts import BatchCount
from composer_kd.batches.masks import Valid, aligned_labels, all_valid, tokens_of, valid_of

__all__ = ['BatchFormat', 'Microbatch']


@dataclass(frozen=True)
class BatchFormat:
    """How the batches of a run are read, which its model says.

    Attributes:
        takes_index: Whether batches are triples ``(inputs, labels, index)``
            (:class:`composer_kd.models.IndexedClassifier`).
        shift_labels: Whether the model predicts the next token, so that position ``i`` answers for label ``i + 1``
            (a ``HuggingFaceModel`` for causal language modelling).

    Example:
        >>> BatchFormat.of(nn.Linear(2, 3))
        BatchFormat(takes_index=False, shift_labels=False)
    """

    takes_index: bool = False
    shift_labels: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> BatchFormat:
        """The format that a run's model expects."""
        return cls(bool(getattr(model, 'takes_index', False)), bool(getattr(model, 'shift_labels', False)))

    def split(self, batch: Any) -> tuple[Any, Tensor | None]:
        """A batch as teachers take it, and the samples' numbers where they are known."""
        return split_index(batch, self.takes_index)


@dataclass
class Microbatch:
    """What the losses of a run must know of a microbatch.

    Attributes:
        batch: The microbatch as models take it.
        number: The batch's number.
        valid: The positions whose answers count; ``None``: all.
        tokens: The tokens whose features count; ``None``: all.
        share: What a mean over the valid positions here weighs in the whole batch's; ``None``: nothing to correct.
        token_share: The same for tokens.
        index: ``(B,)`` The samples' numbers in the data set, where they are known.
        shift_labels: Whether position ``i`` answers for label ``i + 1``.
    """

    batch: Any
    number: int
    valid: Valid | None = None
    tokens: Valid | None = None
    share: Tensor | None = None
    token_share: Tensor | None = None
    index: Tensor | None = None
    shift_labels: bool = False

    @classmethod
    def read(cls, state: State, form: BatchFormat, count: BatchCount, with_tokens: bool = False) -> Microbatch:
        """Reads the microbatch of a run.

        Args:
            state: The run, at any event of a microbatch.
            form: How its batches are read.
            count: What counts in the whole batch, if that had to be counted.
            with_tokens: Whether features of tokens are compared.

        Returns:
            The microbatch: index split off, positions marked, shares found.
        """
        batch, index = form.split(state.batch)
        number, shift = state.timestamp.batch.value, form.shift_labels
        count.forget(number)
        # Where the whole batch counts alike, so does every part of it.
        valid = None if count.answers is None and all_valid(batch, shift) else valid_of(batch, shift)
        micro = cls(batch, number, valid, index=index, shift_labels=shift)
        if valid is not None and count.answers is not None:
            micro.share = valid.share(count.answers)
        if with_tokens:
            micro.tokens = tokens_of(batch)
            if micro.tokens is not None and count.tokens is not None:
                micro.token_share = micro.tokens.share(count.tokens)
        return micro

    @functools.cached_property
    def labels(self) -> Tensor | None:
        """The class that each sample or position answers for; ``None`` where there are none."""
        return aligned_labels(self.batch, self.shift_labels)
