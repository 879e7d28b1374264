"""Uniform random numbers that depend on a seed and a position alone, not on the order in which they are asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ['hashed', 'uniform']

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(seed: int, rows: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """Draws numbers from [0, 1) as a function of seed, row and number of the draw.

    Each is the output of SplitMix64 (Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, 2014)
    for a state that the three are hashed to.

    Args:
        seed: Any integer from 0 to 2 :sup:`64` - 1.
        rows: ``(N,)`` Any numbers of rows.
        draws: The number of draws for each row.

    Returns:
        ``(N, draws)`` Multiples of 2 :sup:`-53`, float64.

    Example:
        >>> whole, part = uniform(1, np.arange(4), 3), uniform(1, np.array([2]), 3)
        >>> bool((whole[2] == part[0]).all()), len(np.unique(whole))
        (True, 12)
    """
    state = hashed(seed, rows.astype(np.uint64))[:, None]
    state = state + np.arange(1, draws + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return (_finished(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def hashed(seed: int, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A pseudorandom number of 64 bits for each pair of seed and number.

    Args:
        seed: Any integer from 0 to 2 :sup:`64` - 1.
        numbers: ``(n,)``

    Returns:
        ``(n,)``
    """
    return _mixed(_mixed(np.array([seed], np.uint64)) ^ _mixed(numbers))


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return _finished(state + np.uint64(_GOLDEN))


def _finished(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64; products wrap around, as they must."""
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))
