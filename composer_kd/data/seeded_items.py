"""Loads samples whose random transforms are a function of a seed for each sample."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ['kept_random_state', 'seed_everything', 'seeded_items']

_LOADING = {'get_seeded', '__getitem__', '__getitems__'}
_MULTIPLIER = 0xD1342543DE82EF95  # odd and without pattern; any such number will do


def seeded_items(dataset: Any, indices: Sequence[int], seeds: NDArray[np.uint64]) -> list[Any]:
    """Loads samples whose random transforms are a function of a seed for each sample.

    A data set may load them at once, in a method of its own: ``get_seeded(indices, seeds)``, with the arguments and the
    result of this function, must give each sample as a function of its index and its seed alone
    (:func:`.uniforms` draws numbers from seeds). It is left aside in a subclass that loads samples in another way. For
    any other data set, ``dataset[index]`` runs with torch's, NumPy's and :mod:`random`'s global states set from the
    seed. These states are afterwards as they were.

    Args:
        dataset: A map-style data set.
        indices: Indices of the samples.
        seeds: uint64, one for each index.

    Returns:
        For each index, its sample.

    Example:
        >>> class Noise:
        ...     def __getitem__(self, index): return index + round(torch.rand(()).item(), 2)
        >>> seeds = np.array([3, 5, 3], np.uint64)
        >>> seeded_items(Noise(), [0, 1, 2], seeds)
        [0.0, 1.83, 2.0]
    """
    if _loads_seeded(dataset.__class__):
        return list(dataset.get_seeded(indices, seeds))
    items = []
    with kept_random_state() as seed_with:
        for index, seed in zip(indices, seeds.tolist()):
            seed_with(seed)
            items.append(dataset[index])
    return items


@cache
def _loads_seeded(kind: type) -> bool:
    """Whether a class has ``get_seeded``, and none before it in the order of its bases loads samples in another way."""
    first = next((one for one in kind.__mro__ if vars(one).keys() & _LOADING), kind)
    return 'get_seeded' in vars(first)


@contextmanager
def kept_random_state() -> Iterator[Callable[[int], None]]:
    """Restores the global random states of torch (on the CPU), NumPy and :mod:`random` at the end of a block.

    Yields:
        `seed_everything`.

    Example:
        >>> _ = torch.manual_seed(3)
        >>> with kept_random_state() as seed_with:
        ...     seed_with(5)
        ...     _ = torch.rand(7)
        >>> torch.equal(torch.rand(7), torch.rand(7, generator=torch.Generator().manual_seed(3)))
        True
    """
    of_torch, of_numpy, of_python = (
        torch.default_generator.get_state(),
        np.random.get_state(legacy=False),
        random.getstate(),
    )
    try:
        yield seed_everything
    finally:
        torch.default_generator.set_state(of_torch)
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def seed_everything(seed: int) -> None:
    """Seeds the global random states of torch (on the CPU), NumPy and :mod:`random`.

    ``torch.manual_seed`` would also seed accelerators, which takes much longer.

    Args:
        seed: From 0 to ``2**64 - 1``. Torch reads its lower 32 bits. NumPy gets 32 bits of a product with it, as both
            have the same generator, whose numbers would otherwise be the same.
    """
    torch.default_generator.manual_seed(seed)
    np.random.seed((seed * _MULTIPLIER >> 32) & 0xFFFFFFFF)
    random.seed(seed)
