"""Splits off a part of the training samples as a validation set, for the choice of settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from composer_kd.data.partly_labelled import UNLABELLED, balanced_order
from composer_kd.data.seeded_items import seeded_items
from composer_kd.errors import ConfigError, nearest

__all__ = ['HeldOut', 'held_out_indices', 'targets_of']

PARTS = ('rest', 'held_out')
LABELS = ('labels', 'label')  # keys under which a mapping may have its class


class HeldOut(Dataset[Any]):
    """A view of a data set: the held-out share of its labelled samples, or the rest.

    The two parts are disjoint and together contain all samples. The same share of each class is held out, so both parts
    have the class frequencies of the data set. The choice depends only on the targets and the seed. Samples without a
    label are always in the rest, since they have no target to evaluate.

    Args:
        dataset: A map-style data set of pairs or mappings. Its attribute ``targets`` is used if it exists; otherwise
            each sample is loaded once. If the targets are not integer classes, as in language modelling, all samples
            count as one class. Its ``num_classes`` is passed on.
        share: The share that is held out, between 0 and 1.
        part: ``'rest'`` or ``'held_out'``.
        seed: Seed of the choice.

    Raises:
        ConfigError: If a setting is out of range, or one of the parts would be empty.

    Example:
        >>> from composer_kd.data import digits
        >>> train, validation = HeldOut(digits(), 0.1), HeldOut(digits(), 0.1, 'held_out')
        >>> len(train), len(validation), set(train.indices) & set(validation.indices)
        (1167, 130, set())
        >>> set(Counter(validation.targets).values())
        {13}
    """

    def __init__(self, dataset: Dataset[Any], share: float, part: str = 'rest', seed: int = 0) -> None:
        if part not in PARTS:
            raise ConfigError(f'part: expected one of {list(PARTS)}, got {part!r}{nearest(part, PARTS)}')
        targets = targets_of(dataset)
        chosen = set(held_out_indices(targets, share, seed))
        if len(chosen) == len(targets):
            raise ConfigError(f'hold_out: {share} of {len(targets)} samples leaves none to train on; take less.')
        self.dataset = dataset
        self.indices = [index for index in range(len(targets)) if (index in chosen) == (part == 'held_out')]
        self.targets = [targets[index] for index in self.indices]
        if hasattr(dataset, 'num_classes'):
            self.num_classes = dataset.num_classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Loads the samples of a batch, in one call if the underlying data set supports it; used by ``DataLoader``.

        Args:
            indices: Indices of samples in this part.

        Returns:
            The samples of the underlying data set.
        """
        wanted = [self.indices[index] for index in indices]
        at_once = getattr(self.dataset, '__getitems__', None)
        return list(at_once(wanted)) if at_once else [self.dataset[index] for index in wanted]

    def get_seeded(self, indices: Sequence[int], seeds: NDArray[np.uint64]) -> list[Any]:
        """Loads samples whose random transforms are a function of a seed for each sample; see `seeded_items`.

        Args:
            indices: Indices of the samples.
            seeds: uint64, one for each index.

        Returns:
            For each index, its sample.
        """
        return seeded_items(self.dataset, [self.indices[index] for index in indices], seeds)


def held_out_indices(targets: Sequence[int], share: float, seed: int = 0) -> list[int]:
    """Chooses the samples to hold out, with the same share of each class.

    With the same seed, a larger share includes all samples of a smaller share. The number of each class is that of the
    share, give or take one sample, or a few if there are many classes of very different sizes.

    Args:
        targets: The class of each sample; ``UNLABELLED`` for samples without a label.
        share: The share of the labelled samples that is held out, between 0 and 1.
        seed: Seed of the choice, at least 0.

    Returns:
        The indices of the held-out samples, in ascending order.

    Raises:
        ConfigError: If the share is not a number between 0 and 1, or gives no sample at all.

    Example:
        >>> targets = [0, 0, 0, 0, 1, 1, -100, -100]
        >>> sorted(targets[index] for index in held_out_indices(targets, 0.5))
        [0, 0, 1]
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise ConfigError(f'hold_out: expected a share between 0 and 1, got {share!r}.')
    labelled = [index for index, target in enumerate(targets) if target != UNLABELLED]
    classes = [targets[index] for index in labelled]
    count = round(share * len(labelled))
    if count == 0:
        raise ConfigError(f'hold_out: {share} of {len(labelled)} labelled samples is not a single one; take more.')
    sizes, seen = Counter(classes), Counter[int]()
    places = []  # relative position of each sample in its class, from 0 to 1
    order = balanced_order(classes, seed)
    for i in order:
        places.append((seen[classes[i]] + 0.5) / sizes[classes[i]])
        seen[classes[i]] += 1
    first = sorted(range(len(order)), key=places.__getitem__)[:count]
    return sorted(labelled[order[i]] for i in first)


def targets_of(dataset: Any) -> list[int]:
    """Reads the class of each sample of a data set.

    Args:
        dataset: A data set with ``targets``, or with a length and samples that are pairs or mappings.

    Returns:
        Classes as integers; all 0 if a target is anything else.

    Raises:
        ConfigError: If the data set has no length.

    Example:
        >>> targets_of([('one', 1), ('none', UNLABELLED)]), targets_of([{'input_ids': [5, 7]}])
        ([1, -100], [0])
    """
    known = getattr(dataset, 'targets', None)
    if known is None:
        if not isinstance(dataset, Sized):
            raise ConfigError('hold_out: samples are chosen by their number, and this data set has no length.')
        items: Any = dataset
        known = [_target(items[index]) for index in range(len(items))]
    classes = [_class_number(target) for target in known]
    return [0] * len(classes) if None in classes else [number for number in classes if number is not None]


def _target(item: Any) -> Any:
    if isinstance(item, Mapping):
        return next((item[key] for key in LABELS if key in item), None)
    return item[1] if isinstance(item, (tuple, list)) and len(item) > 1 else None


def _class_number(target: Any) -> int | None:
    """Returns the class as an integer, or None for other targets: a sequence, a real number, None."""
    value = target.item() if hasattr(target, 'item') and getattr(target, 'ndim', 0) == 0 else target
    return int(value) if isinstance(value, int) else None
