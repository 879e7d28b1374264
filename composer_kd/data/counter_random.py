"""Random numbers that are a function of a counter: the same for a sample in any batch, order, process or machine.

The counter is hashed with SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014) in unsigned 64-bit arithmetic, which is exact and vectorised.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ['sample_seeds', 'small_integers', 'uniforms']

_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd: multiples of it are all different
_ROUNDS = tuple(
    (np.uint64(shift), np.uint64(factor)) for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
)
_LAST_SHIFT = np.uint64(31)
_UNUSED_BITS = np.uint64(11)  # a float64 holds 53


def sample_seeds(seed: int, view: int, samples: ArrayLike) -> NDArray[np.uint64]:
    """Hashes a seed, a view and the numbers of samples to one 64-bit seed for each sample.

    Args:
        seed: An integer, at least 0.
        view: The view of all samples, at least 0.
        samples: The number of each sample, at least 0: ``(B,)``.

    Returns:
        uint64 ``(B,)``. With one seed and one view, different samples have different seeds.

    Example:
        >>> sample_seeds(0, 1, [7, 8]).tolist()
        [10982949063525286192, 14649582107301795103]
    """
    steps = np.array(samples, np.uint64)
    steps *= _STEP
    steps += _key_of_view(seed, view)
    return _mixed(steps)


def uniforms(seeds: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Draws uniform numbers, as a function of each seed.

    Args:
        seeds: uint64 ``(B,)``, such as those of `sample_seeds`.
        count: How many numbers to draw for each seed.

    Returns:
        float64 ``(B, count)``, at least 0 and below 1, in steps of ``2**-53``.

    Example:
        >>> uniforms(sample_seeds(0, 1, [7, 8]), 2).round(3).tolist()
        [[0.573, 0.427], [0.203, 0.559]]
    """
    counters = np.arange(1, count + 1, dtype=np.uint64) * _STEP
    bits = _mixed(seeds[:, None] + counters)
    return (bits >> _UNUSED_BITS).astype(np.float64) * np.float64(2.0**-53)


def small_integers(seeds: NDArray[np.uint64], bounds: Sequence[int]) -> NDArray[np.int64]:
    """Draws a few small integers from the bits of each seed, with fewer operations than `uniforms`.

    Args:
        seeds: uint64 ``(B,)`` with random bits, such as those of `sample_seeds`.
        bounds: For each integer, the number above the largest, below 2 :sup:`32`; at most four of them.

    Returns:
        int64 ``(len(bounds), B)``. With ``n`` bounds, probabilities are exact to ``2 ** -min(32, 64 // n)``.

    Example:
        >>> small_integers(sample_seeds(0, 1, range(6)), (9, 2)).tolist()
        [[0, 5, 5, 1, 2, 6], [0, 1, 0, 1, 0, 0]]
    """
    width = min(32, 64 // len(bounds))  # so that the product stays within 64 bits
    shifts = np.arange(len(bounds), dtype=np.uint64)[:, None] * np.uint64(width)
    drawn = (seeds >> shifts) & np.uint64(2**width - 1)
    drawn *= np.array(bounds, np.uint64)[:, None]
    drawn >>= np.uint64(width)
    return drawn.view(np.int64)


@lru_cache(maxsize=1024)
def _key_of_view(seed: int, view: int) -> np.uint64:
    key: NDArray[np.uint64] = np.zeros(1, np.uint64)
    for counter in (seed, view):
        key = _mixed(key + np.array([(counter + 1) % 2**64], np.uint64) * _STEP)
    return (key + _STEP)[0]


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit integers in which each bit of ``x``, which is overwritten, changes about half of all."""
    for shift, factor in _ROUNDS:
        x ^= x >> shift
        x *= factor
    x ^= x >> _LAST_SHIFT
    return x
