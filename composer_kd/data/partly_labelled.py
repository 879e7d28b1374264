"""Fewer samples, and fewer labels: class-balanced choices that depend on a seed and on nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from composer_kd.errors import ConfigError

__all__ = ['UNLABELLED', 'PartlyLabelled', 'balanced_order', 'restrict']

UNLABELLED = -100
"""The label of a sample whose class is hidden: torch's cross-entropy ignores it."""


class PartlyLabelled(Dataset[tuple[Any, int]]):
    """A view of a data set in which only some samples keep their label, about the same number of each class.

    The samples without a label teach by distillation alone: their label is ``UNLABELLED``. A larger
    ``n_labels`` with the same seed keeps all labels that a smaller one keeps.

    Args:
        dataset: A map-style data set of ``(x, y)``. Its ``targets`` are read where it has them, so that no
            image need be decoded; otherwise every item is loaded once.
        n_labels: How many samples keep their label; None for all of them.
        keep_unlabelled: Whether the other samples stay, without a label, or are dropped.
        subset: How many samples to begin with, by a fixed class-balanced choice; None for all of them.
        seed: Chooses who keeps a label.

    Raises:
        ConfigError: If ``n_labels`` or ``subset`` is larger than the number of samples or too small.

    Example:
        >>> from composer_kd.data import digits
        >>> dataset = PartlyLabelled(digits(), n_labels=20)
        >>> len(dataset), Counter(dataset.targets)[UNLABELLED], Counter(dataset.targets)[7]
        (1297, 1277, 2)
        >>> len(PartlyLabelled(digits(), n_labels=20, keep_unlabelled=False))
        20
    """

    def __init__(
        self,
        dataset: Dataset[tuple[Any, int]],
        n_labels: int | None = None,
        keep_unlabelled: bool = True,
        subset: int | None = None,
        seed: int = 0,
    ) -> None:
        targets = _targets(dataset)
        self.dataset = dataset
        self.num_classes = int(getattr(dataset, 'num_classes', max(targets, default=-1) + 1))
        self.indices = list(range(len(targets)))
        if subset is not None:
            _check_count('subset', subset, 1, len(targets))
            self.indices = balanced_order(targets, seed=0)[:subset]
        self.targets = [targets[index] for index in self.indices]

        if n_labels is not None:
            _check_count('n_labels', n_labels, 0 if keep_unlabelled else 1, len(self.targets))
            labelled = set(balanced_order(self.targets, seed)[:n_labels])
            if keep_unlabelled:
                self.targets = [y if i in labelled else UNLABELLED for i, y in enumerate(self.targets)]
            else:
                self.indices = [index for i, index in enumerate(self.indices) if i in labelled]
                self.targets = [y for i, y in enumerate(self.targets) if i in labelled]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        x, _ = self.dataset[self.indices[index]]
        return x, self.targets[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[Any, int]]:
        """Loads a batch, at once where the data set beneath can: what a ``DataLoader`` calls.

        Args:
            indices: Which samples.

        Returns:
            ``(x, y)`` for each index.
        """
        wanted = [self.indices[index] for index in indices]
        at_once = getattr(self.dataset, '__getitems__', None)
        items = at_once(wanted) if at_once else [self.dataset[index] for index in wanted]
        return [(x, self.targets[index]) for (x, _), index in zip(items, indices)]


def balanced_order(targets: Sequence[int], seed: int) -> list[int]:
    """Shuffles samples so that any first ones of them hold the classes in equal numbers, give or take one.

    A class that has run out is passed over. NumPy's ``RandomState`` is used, whose numbers never change.

    Args:
        targets: The class of each sample.
        seed: Chooses the order, at least 0.

    Returns:
        The indices of all samples.

    Raises:
        ConfigError: If ``seed`` isn't an integer from 0 to 2**32 - 1.

    Example:
        >>> targets = [0, 0, 0, 0, 1, 1]
        >>> order = balanced_order(targets, seed=0)
        >>> sorted(targets[index] for index in order[:4])
        [0, 0, 1, 1]
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f'seed: expected an integer from 0 to 2**32 - 1, got {seed!r}.')
    order = np.random.RandomState(seed).permutation(len(targets)).tolist()
    seen: Counter[int] = Counter()
    turn = {}  # how many of its class come before a sample
    for index in order:
        turn[index] = seen[targets[index]]
        seen[targets[index]] += 1
    return sorted(order, key=turn.__getitem__)


def restrict(
    dataset: Dataset[tuple[Any, int]],
    subset: int | None,
    n_labels: int | None,
    keep_unlabelled: bool,
    seed: int,
) -> Dataset[tuple[Any, int]]:
    """Returns the data set itself if nothing is left out of it, and else a `PartlyLabelled` view.

    Args:
        dataset: A map-style data set of ``(x, y)``.
        subset: See `PartlyLabelled`.
        n_labels: See `PartlyLabelled`.
        keep_unlabelled: See `PartlyLabelled`.
        seed: See `PartlyLabelled`.

    Example:
        >>> from composer_kd.data import digits
        >>> len(restrict(digits(), subset=30, n_labels=None, keep_unlabelled=True, seed=0))
        30
    """
    if subset is None and n_labels is None:
        return dataset
    return PartlyLabelled(dataset, n_labels, keep_unlabelled, subset, seed)


def _targets(dataset: Any) -> list[int]:
    known = getattr(dataset, 'targets', None)
    if known is None:
        return [int(dataset[index][1]) for index in range(len(dataset))]
    return [int(target) for target in known]


def _check_count(name: str, count: int, least: int, most: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not least <= count <= most:
        raise ConfigError(f'{name}: expected an integer from {least} to {most}, or None for all, got {count!r}.')
