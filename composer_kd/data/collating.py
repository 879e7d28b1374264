"""How the samples of a data set become a batch, if the data set says it itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from composer_kd.pretrained import require_transformers

__all__ = ['PaddedBatches', 'PaddedColumns', 'chain_of', 'collate_of']


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


class PaddedColumns:
    """Makes batches of samples whose sequences have lengths of their own: each column is padded to its longest.

    Args:
        columns: By name the number that stands for padding, and whether that comes before the sequence. Other
            sequences are padded behind, with 0.

    Example:
        >>> items = [{'input_ids': [5], 'labels': [6, 7]}, {'input_ids': [8, 9], 'labels': [4]}]
        >>> PaddedColumns(input_ids=(0, True), labels=(-100, False))(items)
        {'input_ids': tensor([[0, 5],
                [8, 9]]), 'labels': tensor([[   6,    7],
                [   4, -100]])}
    """

    def __init__(self, **columns: tuple[int, bool]) -> None:
        self._columns = columns

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Makes a batch of tensors.

        Args:
            items: Mappings with lists of numbers, and numbers.

        Returns:
            The batch: int64 ``(B, S)`` for sequences, ``(B,)`` for numbers.
        """
        return {
            name: _column([item[name] for item in items], *self._columns.get(name, (0, False))) for name in items[0]
        }


def _column(values: list[Any], fill: int, left: bool) -> Tensor:
    if not isinstance(values[0], list):
        return torch.as_tensor(values)
    rows = [torch.tensor(row[::-1] if left else row, dtype=torch.long) for row in values]
    padded = pad_sequence(rows, batch_first=True, padding_value=fill)
    return padded.flip(1) if left else padded


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
