"""The evaluation data that a script gives: a loader, or a batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from composer import DataSpec, Evaluator
from torch import Tensor

from composer_kd.batches.contents import split_index
from composer_kd.data import Indexed
from composer_kd.errors import ConfigError

__all__ = ['Data']


class Data:
    """Evaluation data that can be gone through several times.

    Args:
        given: A DataLoader, a DataSpec or an Evaluator of Composer, a list of batches, or one batch: a tensor, a
            mapping, or ``(inputs, labels)``. A list or tuple of tensors is one batch, as a DataLoader makes it.

    Raises:
        ConfigError: If it holds no batch, or can be gone through once only.

    Example:
        >>> import torch
        >>> pair = torch.zeros(2, 4), torch.tensor([0, 1])
        >>> len(list(Data(pair).batches())), len(list(Data([pair, pair]).batches()))
        (1, 2)
    """

    def __init__(self, given: Any) -> None:
        given = given.dataloader if isinstance(given, Evaluator) else given
        loader = given.dataloader if isinstance(given, DataSpec) else given
        self.loader: Iterable[Any] = [loader] if _is_batch(loader) else loader
        if not isinstance(self.loader, Iterable) or isinstance(self.loader, Iterator):
            raise ConfigError(
                'data: expected a DataLoader, a list of batches, or one batch (a tensor, a mapping, or (inputs, '
                f'labels)); got a {type(given).__name__}'
            )
        self.dataset = getattr(self.loader, 'dataset', None)
        self.first: Any = next(self.batches(), None)
        if self.first is None:
            raise ConfigError('data: expected at least one batch, got none')

    @property
    def num_classes(self) -> int | None:
        """The number of classes, if the data set says it."""
        found = getattr(self.dataset, 'num_classes', None)
        return found if isinstance(found, int) else None

    @property
    def description(self) -> str:
        """The data in words."""
        if self.dataset is None:
            return 'batches of a script'
        return f'{type(self.dataset).__name__} of a script'

    def batches(self, most: int | None = None) -> Iterator[Any]:
        """Yields the batches as models take them, without the index of the samples.

        Args:
            most: The largest number of batches; None for all.
        """
        for batch in itertools.islice(self.loader, most):
            yield split_index(batch, indexed=isinstance(self.dataset, Indexed))[0]


def _is_batch(given: Any) -> bool:
    if isinstance(given, Tensor | Mapping):
        return True
    return isinstance(given, list | tuple) and bool(given) and all(isinstance(one, Tensor) for one in given)
