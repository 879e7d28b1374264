"""How the samples of a data set become a batch, if the data set says it itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from composer_kd.pretrained import require_transformers

__all__ = ['PaddedBatches', 'chain_of', 'collate_of']


class PaddedBatches:
    """Makes batches of tokenized samples: each is padded to the longest of the batch, on the side of the tokenizer.

    Args:
        tokenizer: A tokenizer of transformers, with a token for padding.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._pad = require_transformers('a data set of texts').DataCollatorWithPadding(tokenizer)

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Makes a batch of tensors.

        Args:
            items: Mappings with ``input_ids``, and whatever else has the length of these; and numbers.

        Returns:
            The batch: int64 ``(B, S)`` for sequences, ``(B,)`` for numbers.
        """
        return dict(self._pad([dict(item) for item in items]))


def chain_of(dataset: Any) -> Iterator[Any]:
    """Yields a data set and those that it wraps, from the outside."""
    yield dataset
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
        yield dataset


def collate_of(dataset: Any) -> Callable[[Any], Any] | None:
    """The attribute ``collate_fn`` of a data set, or of one that it wraps; None for torch's own way.

    Example:
        >>> collate_of([1, 2]) is None
        True
    """
    return next((one.collate_fn for one in chain_of(dataset) if getattr(one, 'collate_fn', None) is not None), None)
