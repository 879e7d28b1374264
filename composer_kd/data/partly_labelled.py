"""Class-balanced subsets of samples and labels, which depend only on a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from composer_kd.data.seeded_items import seeded_items
from composer_kd.errors import ConfigError

__all__ = ['UNLABELLED', 'PartlyLabelled', 'balanced_order', 'check_count', 'restrict', 'restricted']

T = TypeVar('T')

UNLABELLED = -100
"""The label of a sample without a label; torch's cross-entropy ignores it."""


class PartlyLabelled(Dataset[tuple[Any, int]]):
    """A view of a data set in which only some samples keep their label, about the same number of each class.

    The other samples have the label ``UNLABELLED``, and contribute to the distillation loss only. With the same seed, a
    larger ``n_labels`` includes all labels of a smaller one.

    Args:
        dataset: A map-style data set of ``(x, y)``. Its attribute ``targets`` is used if it exists; otherwise each
            sample is loaded once.
        n_labels: The number of samples that keep their label; None for all.
        keep_unlabelled: Whether the other samples stay, without a label, or are dropped.
        subset: The number of samples to select first, by a fixed class-balanced choice; None for all.
        seed: Seed of the choice of labelled samples.

    Raises:
        ConfigError: If ``n_labels`` or ``subset`` is too small, or larger than the number of samples.

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
            check_count('subset', subset, 1, len(targets))
            self.indices = balanced_order(targets, seed=0)[:subset]
        self.targets = [targets[index] for index in self.indices]

        if n_labels is not None:
            check_count('n_labels', n_labels, 0 if keep_unlabelled else 1, len(self.targets))
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
        """Loads the samples of a batch, in one call if the underlying data set supports it; used by ``DataLoader``.

        Args:
            indices: Indices of the samples.

        Returns:
            ``(x, y)`` for each index.
        """
        wanted = [self.indices[index] for index in indices]
        at_once = getattr(self.dataset, '__getitems__', None)
        items = at_once(wanted) if at_once else [self.dataset[index] for index in wanted]
        return [(x, self.targets[index]) for (x, _), index in zip(items, indices)]

    def get_seeded(self, indices: Sequence[int], seeds: NDArray[np.uint64]) -> list[tuple[Any, int]]:
        """Loads samples whose random transforms are a function of a seed for each sample; see `seeded_items`.

        Args:
            indices: Indices of the samples.
            seeds: uint64, one for each index.

        Returns:
            For each index, its sample.
        """
        items = seeded_items(self.dataset, [self.indices[index] for index in indices], seeds)
        return [(x, self.targets[index]) for (x, _), index in zip(items, indices)]


def balanced_order(targets: Sequence[int], seed: int) -> list[int]:
    """Shuffles samples so that the first ``n`` contain equal numbers of each class, up to one, for any ``n``.

    When all samples of a class are used, the remaining classes continue. The order comes from NumPy's ``RandomState``,
    which is stable across versions.

    Args:
        targets: The class of each sample.
        seed: Seed of the order, at least 0.

    Returns:
        The indices of all samples, in that order.

    Raises:
        ConfigError: If ``seed`` is not an integer from 0 to 2**32 - 1.

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
    turn = {}  # number of samples of the same class before each sample
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
    """Returns a `PartlyLabelled` view if samples or labels are restricted, and otherwise the data set itself.

    Args:
        dataset: A map-style data set of ``(x, y)``.
        subset: See `PartlyLabelled`.
        n_labels: See `PartlyLabelled`.
        keep_unlabelled: See `PartlyLabelled`.
        seed: See `PartlyLabelled`.

    Returns:
        A map-style data set of ``(x, y)``.

    Example:
        >>> from composer_kd.data import digits
        >>> len(restrict(digits(), subset=30, n_labels=None, keep_unlabelled=True, seed=0))
        30
    """
    if subset is None and n_labels is None:
        return dataset
    return PartlyLabelled(dataset, n_labels, keep_unlabelled, subset, seed)


def restricted(
    samples: Sequence[T],
    targets: Sequence[Any],
    are_classes: bool,
    subset: int | None,
    n_labels: int | None,
    keep_unlabelled: bool,
    seed: int,
) -> tuple[list[T], list[Any]]:
    """Selects samples and labels of a list, as `PartlyLabelled` does of a data set.

    Args:
        samples: The samples, such as texts that are not tokenized yet.
        targets: The label of each.
        are_classes: Whether labels are classes, which are chosen in balance; else scores, which can't be left out.
        subset: See `PartlyLabelled`.
        n_labels: See `PartlyLabelled`.
        keep_unlabelled: See `PartlyLabelled`.
        seed: See `PartlyLabelled`.

    Returns:
        The samples that are left, and their labels.

    Raises:
        ConfigError: If a number is out of range, or ``n_labels`` is given for scores.

    Example:
        >>> restricted('abcd', [0, 1, 0, 1], True, subset=None, n_labels=2, keep_unlabelled=False, seed=0)
        (['c', 'd'], [0, 1])
    """
    if n_labels is not None and not are_classes:
        raise ConfigError(f'n_labels: scores cannot be left out, got {n_labels!r}; take a subset')
    chosen = list(range(len(samples)))
    if subset is not None:
        check_count('subset', subset, 1, len(samples))
        chosen = balanced_order(targets if are_classes else [0] * len(samples), seed=0)[:subset]
    own = [targets[index] for index in chosen]
    if n_labels is not None:
        check_count('n_labels', n_labels, 0 if keep_unlabelled else 1, len(own))
        known = set(balanced_order(own, seed)[:n_labels])
        kept = [(index, y if at in known else UNLABELLED) for at, (index, y) in enumerate(zip(chosen, own))]
        pairs = [pair for at, pair in enumerate(kept) if keep_unlabelled or at in known]
        chosen, own = [index for index, _ in pairs], [y for _, y in pairs]
    return [samples[index] for index in chosen], own


def _targets(dataset: Any) -> list[int]:
    known = getattr(dataset, 'targets', None)
    if known is None:
        return [int(dataset[index][1]) for index in range(len(dataset))]
    return [int(target) for target in known]


def check_count(name: str, count: int, least: int, most: int) -> None:
    """Checks a number of samples.

    Raises:
        ConfigError: If it is no integer from ``least`` to ``most``.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not least <= count <= most:
        raise ConfigError(f'{name}: expected an integer from {least} to {most}, or None for all, got {count!r}.')
