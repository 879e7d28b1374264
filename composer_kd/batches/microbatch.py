"""Reads from a microbatch, once, what the losses of a run need."""

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
    """The format of a run's batches, which its model determines.

    Attributes:
        takes_index: Whether batches are triples ``(inputs, labels, index)``
            (:class:`composer_kd.models.IndexedClassifier`).
        shift_labels: Whether the model predicts the next token, so that position ``i`` has the label ``i + 1`` (a
            ``HuggingFaceModel`` for causal language modelling).

    Example:
        >>> BatchFormat.of(nn.Linear(2, 3))
        BatchFormat(takes_index=False, shift_labels=False)
    """

    takes_index: bool = False
    shift_labels: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> BatchFormat:
        """The format that a model expects."""
        return cls(bool(getattr(model, 'takes_index', False)), bool(getattr(model, 'shift_labels', False)))

    def split(self, batch: Any) -> tuple[Any, Tensor | None]:
        """Separates the index from a batch.

        Returns:
            The batch as teachers take it; and the index ``(B,)``, or ``None`` if the batch has none.
        """
        return split_index(batch, self.takes_index)


@dataclass
class Microbatch:
    """The contents of a microbatch that the losses of a run need.

    Attributes:
        batch: The microbatch as models take it.
        number: The number of the batch.
        valid: The valid positions of logits; ``None`` if all are valid.
        tokens: The valid tokens of hidden states; ``None`` if all are valid.
        share: The factor for means over ``valid``, from :meth:`.Valid.share`; ``None`` if no correction is needed.
        token_share: The factor for means over ``tokens``, likewise.
        index: ``(B,)`` The samples' numbers in the data set; ``None`` if unknown.
        shift_labels: Whether position ``i`` has the label ``i + 1``.
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
            state: The state of the run, at any event of a microbatch.
            form: The format of its batches.
            count: The counts of the whole batch, if they were needed.
            with_tokens: Whether features of tokens are compared.

        Returns:
            The microbatch.
        """
        batch, index = form.split(state.batch)
        number, shift = state.timestamp.batch.value, form.shift_labels
        count.forget(number)
        # If the whole batch is valid, so is every part of it.
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
        """The class label of each sample or position, ``(B,)`` or ``(B, S)`` integers; ``None`` if there are none."""
        return aligned_labels(self.batch, self.shift_labels)
