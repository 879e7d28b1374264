"""Finds out whether the samples of a data set are random, by drawing some of them twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from composer_kd.data.counter_random import sample_seeds
from composer_kd.data.sample_content import content_hash
from composer_kd.data.seeded_items import kept_random_state, seeded_items
from composer_kd.data.view_index import ViewIndex
from composer_kd.errors import ConfigError

__all__ = ['Randomness', 'check_repeatable', 'generators_in', 'is_random', 'spread_over']

MOST_PARTS = 100  # of a list or mapping that is looked into; longer ones are data
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


@dataclass(frozen=True)
class Randomness:
    """What was found when samples were drawn twice; true if some were random.

    Args:
        looked_at: The indices of the samples.
        differing: Those of them that came out differently the second time.
    """

    looked_at: tuple[int, ...]
    differing: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.differing)

    def __str__(self) -> str:
        first = f', the first at index {self.differing[0]}' if self.differing else ''
        return f'{len(self.differing)} of {len(self.looked_at)} samples differ when they are drawn twice{first}'


def is_random(dataset: Any, samples: int = 16) -> Randomness:
    """Finds out whether the samples of a data set are random, by drawing some of them twice.

    Samples spread over the data set are loaded twice, after different seeds of torch, NumPy and :mod:`random`, whose
    states are afterwards as they were. A transform that leaves most samples alone may go unnoticed: one that is applied
    with probability ``p``, with probability ``(1 - p) ** (2 * samples)``. :class:`.SeededViews` are not random.

    Args:
        dataset: A map-style data set with a length.
        samples: How many samples to load, twice.

    Returns:
        True or false in a condition; as text, what was seen.

    Example:
        >>> from composer_kd.data import ImageTensors
        >>> images = torch.arange(192, dtype=torch.uint8).view(3, 1, 8, 8)
        >>> print(is_random(ImageTensors(images, [0, 1, 0], 2, (0.0,), (1.0,))))
        0 of 3 samples differ when they are drawn twice
        >>> bool(is_random(ImageTensors(images, [0, 1, 0], 2, (0.0,), (1.0,), pad=2, flip=True)))
        True
    """
    looked_at = spread_over(len(dataset), samples)
    draws = []
    with kept_random_state() as seed_with:
        for turn in range(2):
            hashes = []
            for index, seed in zip(looked_at, sample_seeds(0, turn, looked_at).tolist()):
                seed_with(seed)
                hashes.append(content_hash(dataset[ViewIndex(index, view=0)]))
            draws.append(hashes)
    return Randomness(tuple(looked_at), _differing(looked_at, *draws))


def check_repeatable(dataset: Any, seeds: Callable[[Sequence[int], int], Any], views: int, samples: int = 8) -> None:
    """Checks that samples come out the same when they are drawn twice with the same seeds.

    Args:
        dataset: A map-style data set with a length.
        seeds: ``(indices, view) -> seeds`` of the samples; see `seeded_items`.
        views: The number of views, of which two are drawn.
        samples: How many samples to draw, spread over the data set; twice for each view.

    Raises:
        ConfigError: If a sample differs. The message names the generators that the data set holds.
    """
    chosen = spread_over(len(dataset), samples)
    backwards = chosen[::-1]  # what depends on the order or the batch is found too
    for view in range(min(views, 2)):
        with kept_random_state():
            once = [content_hash(item) for item in seeded_items(dataset, chosen, seeds(chosen, view))]
            again = [content_hash(item) for item in seeded_items(dataset, backwards, seeds(backwards, view))]
        found = Randomness(tuple(chosen), _differing(chosen, once, again[::-1]))
        if found:
            held = '; '.join(generators_in(dataset)) or 'none was found among its attributes'
            raise ConfigError(
                f'SeededViews: {found}, with the same seed. The transforms of {type(dataset).__name__} draw from a '
                f'generator of their own, which cannot be seeded from outside: {held}. Draw from the global ones in '
                'their place (torch.rand, numpy.random.rand, random.random), or give the data set a method '
                'get_seeded(indices, seeds).'
            )


def spread_over(length: int, count: int) -> list[int]:
    """Chooses indices that are spread evenly over a data set, the first and the last among them.

    Args:
        length: The length of the data set.
        count: The number of indices, at most; if there are fewer samples, all are chosen.

    Returns:
        Ascending indices.

    Example:
        >>> spread_over(100, 4), spread_over(2, 4)
        ([0, 33, 66, 99], [0, 1])
    """
    return sorted({int(index) for index in np.linspace(0, length - 1, min(count, length))})


def generators_in(value: Any) -> Iterator[str]:
    """Yields where an object holds random generators, in its attributes and those of what it holds.

    Args:
        value: The object. Mappings and sequences with more than ``MOST_PARTS`` entries count as data, and are left out.

    Yields:
        ``'transform.rng (numpy.random._generator.Generator)'``.

    Example:
        >>> class Jitter:
        ...     def __init__(self): self.rng = random.Random(3)
        >>> list(generators_in({'steps': [Jitter()]}))
        ['steps.0.rng (random.Random)']
    """
    waiting, seen = [('', value)], set()
    while waiting:
        path, held = waiting.pop(0)
        if isinstance(held, _GENERATORS):
            yield f'{path} ({type(held).__module__}.{type(held).__qualname__})'
        elif id(held) not in seen:
            seen.add(id(held))
            waiting += [(f'{path}.{name}' if path else str(name), part) for name, part in _parts_of(held)]


def _parts_of(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        parts = list(value.items()) if len(value) <= MOST_PARTS else []
    elif isinstance(value, (list, tuple)):
        parts = list(enumerate(value)) if len(value) <= MOST_PARTS else []
    else:
        parts = list(getattr(value, '__dict__', {}).items())
    return [] if isinstance(value, (type, ModuleType)) else parts


def _differing(indices: Sequence[int], first: Sequence[str], second: Sequence[str]) -> tuple[int, ...]:
    return tuple(index for index, one, other in zip(indices, first, second) if one != other)
