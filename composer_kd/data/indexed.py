"""A data set that returns each sample together with its index, for losses that keep state for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from composer_kd.errors import ConfigError

__all__ = ['ByIndex', 'Indexed', 'IndexedSamples', 'by_index']


class Indexed(Dataset[Any]):
    """A data set that returns each sample together with its index.

    A pair ``(x, y)`` becomes ``(x, y, index)``, and a mapping gets the key ``'index'``. The index is the position in
    this data set, from 0 to ``len() - 1``; a ``DataLoader`` collates it to int64 ``(B,)``. Losses that keep state for
    each sample (CRD) need it. Wrap a model that expects pairs in :class:`composer_kd.models.IndexedClassifier` instead
    of Composer's ``ComposerClassifier``.

    Args:
        dataset: A map-style data set of pairs or mappings. Its ``num_classes`` and ``targets`` are passed on.

    Raises:
        ConfigError: If a sample is neither a pair nor a mapping, or already has the key ``'index'``.

    Example:
        >>> from composer_kd.data import digits
        >>> dataset = Indexed(digits('test'))
        >>> x, y, index = dataset[7]
        >>> tuple(x.shape), y == dataset.targets[7], index, dataset.num_classes
        ((1, 8, 8), True, 7, 10)
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset
        for name in ('num_classes', 'targets'):
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        position = range(len(self))[index]
        return self.__getitems__([index if position == index else position])[0]  # an index may say more: its view

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Loads the samples of a batch, in one call if the underlying data set supports it; used by ``DataLoader``.

        Args:
            indices: Indices of the samples.

        Returns:
            For each index, ``(x, y, index)`` or a mapping with the key ``'index'``.
        """
        at_once = getattr(self.dataset, '__getitems__', None)
        items = at_once(indices) if at_once else [self.dataset[index] for index in indices]
        return [_with_index(item, int(index)) for item, index in zip(items, indices)]


class IndexedSamples:
    """For a streamed data set of your own: each sample tells its index, in whatever order it comes.

    A ``StreamingDataset`` of MosaicML Streaming draws an order of its own, and asks itself for each sample by its
    index. Put this before it among the base classes. The index is added as :class:`Indexed` does.

    Example:
        >>> class Numbers(list):
        ...     num_samples = 3
        >>> class Told(IndexedSamples, Numbers): ...
        >>> Told([{'x': 5}, {'x': 6}, {'x': 7}])[1]
        {'x': 6, 'index': 1}
    """

    num_samples: int

    def __getitem__(self, at: Any) -> Any:
        item = super().__getitem__(at)  # type: ignore[misc]
        return _with_index(item, int(at)) if isinstance(at, (int, np.integer)) else item


class ByIndex(Dataset[Any]):
    """The samples of a streamed data set by their index: all of them, in each process.

    Args:
        dataset: The data set.
    """

    def __init__(self, dataset: IndexedSamples) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return self.dataset.num_samples

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


def by_index(dataset: Any) -> Any:
    """A data set whose samples are loaded by their index; of others than streamed ones itself.

    Example:
        >>> by_index([5, 6])
        [5, 6]
    """
    return ByIndex(dataset) if isinstance(dataset, IndexedSamples) else dataset


def _with_index(item: Any, index: int) -> Any:
    if isinstance(item, Mapping):
        if 'index' in item:
            raise ConfigError(f"Indexed: the items have the key 'index' already, among {sorted(map(str, item))}.")
        return {**item, 'index': index}
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return *item, index
    what = f'{len(item)} parts' if isinstance(item, (tuple, list)) else type(item).__name__
    raise ConfigError(f'Indexed: expected items that are pairs (x, y) or mappings, got {what}.')
