"""Some samples of a batch, as a batch of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ['indivisible', 'size_of', 'take']


def size_of(batch: Any) -> int | None:
    """The number of samples: the first dimension of the first tensor; ``None`` if there is none.

    Example:
        >>> import torch
        >>> size_of({'x': torch.zeros(4, 2), 'labels': torch.zeros(4)})
        4
    """
    batch = dict(batch) if isinstance(batch, Mapping) else batch  # torch does not look into mappings of other kinds
    return next((leaf.shape[0] for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), None)


def take(batch: Any, rows: Tensor, size: int) -> tuple[Any, bool]:
    """Takes some samples of a batch.

    Tensors have the samples in their first dimension, as where Composer makes microbatches; a list with one entry for
    each sample is one of them. What belongs to no sample (numbers, words, ``None``, scalar tensors) is kept.

    Args:
        batch: A tensor, or mappings, tuples and lists of them; stays unchanged.
        rows: ``(N,)`` The samples' positions in the batch, integers.
        size: The number of samples in the batch.

    Returns:
        The samples as a batch; and whether everything in it could be taken apart. What could not is kept whole.

    Example:
        >>> import torch
        >>> take((torch.tensor([[1], [2], [3]]), torch.tensor([7, 8, 9])), torch.tensor([2, 0]), size=3)
        ((tensor([[3],
                [1]]), tensor([9, 7])), True)
    """
    if isinstance(batch, Tensor):
        if not batch.ndim:
            return batch, True
        fits = batch.shape[0] == size
        return (batch[rows.to(batch.device)], True) if fits else (batch, False)
    if isinstance(batch, Mapping):
        taken = {key: take(value, rows, size) for key, value in batch.items()}
        return {key: value for key, (value, _) in taken.items()}, all(fits for _, fits in taken.values())
    if not isinstance(batch, (list, tuple)):
        return batch, batch is None or isinstance(batch, (bool, int, float, str))
    tensors = [leaf for leaf in batch if isinstance(leaf, Tensor)]
    is_of_samples = len(batch) == size and not (tensors and all(size_of(leaf) == size for leaf in tensors))
    if is_of_samples and not any(isinstance(entry, (Mapping, list, tuple)) and size_of(entry) for entry in batch):
        return type(batch)(batch[row] for row in rows.tolist()), True
    parts = [take(entry, rows, size) for entry in batch]
    return tuple(value for value, _ in parts), all(fits for _, fits in parts)


def indivisible(batch: Any, size: int) -> list[str]:
    """The entries of a batch that cannot be taken apart into samples, by their keys or positions; else its class.

    Example:
        >>> import torch
        >>> indivisible({'input_ids': torch.zeros(2, 6), 'cu_seqlens': torch.tensor([0, 4, 12])}, size=2)
        ['cu_seqlens']
    """
    row = torch.arange(min(1, size))
    if take(batch, row, size)[1]:
        return []
    if not isinstance(batch, (Mapping, list, tuple)):
        return [type(batch).__name__]
    entries = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    return [str(key) for key, value in entries if not take(value, row, size)[1]]
