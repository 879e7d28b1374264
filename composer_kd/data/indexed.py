"""Samples that tell which one they are, for losses that remember samples from one epoch to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from composer_kd.errors import ConfigError

__all__ = ['Indexed']


class Indexed(Dataset[Any]):
    """A view of a data set whose items tell their index.

    A pair ``(x, y)`` becomes ``(x, y, index)``, and a mapping gets the key ``'index'``. The index is the place in this
    view, from 0 to ``len() - 1``; a ``DataLoader`` collates it to int64 of shape ``(B,)``. Losses that keep something
    for each sample (CRD) need it. A model that takes pairs only needs
    :class:`composer_kd.models.IndexedClassifier` around it in place of Composer's ``ComposerClassifier``.

    Args:
        dataset: A map-style data set of pairs or mappings. Its ``num_classes`` and ``targets`` are passed on.

    Raises:
        ConfigError: If an item is neither a pair nor a mapping, or has the key ``'index'`` already.

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
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Loads a batch, at once where the data set beneath can: what a ``DataLoader`` calls.

        Args:
            indices: Which samples.

        Returns:
            ``(x, y, index)`` or a mapping with ``'index'`` for each.
        """
        at_once = getattr(self.dataset, '__getitems__', None)
        items = at_once(indices) if at_once else [self.dataset[index] for index in indices]
        return [_with_index(item, int(index)) for item, index in zip(items, indices)]


def _with_index(item: Any, index: int) -> Any:
    if isinstance(item, Mapping):
        if 'index' in item:
            raise ConfigError(f"Indexed: the items have the key 'index' already, among {sorted(map(str, item))}.")
        return {**item, 'index': index}
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return *item, index
    what = f'{len(item)} parts' if isinstance(item, (tuple, list)) else type(item).__name__
    raise ConfigError(f'Indexed: expected items that are pairs (x, y) or mappings, got {what}.')
