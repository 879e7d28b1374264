"""Random numbers that are a function of a counter: the same for a sample in any batch, order, process or machine.

The counter is hashed with SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014) in unsigned 64-bit arithmetic, which is exact and vectorised.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ['sample_seeds', 'uniforms']

_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd: multiples of it are all different


def sample_seeds(seed: int, views: Any, samples: Any) -> NDArray[np.uint64]:
    """Hashes a seed, views and samples to one 64-bit seed for each sample.

    Args:
        seed: An integer, at least 0.
        views: The view of each sample, ``(B,)``, or one for all of them.
        samples: The number of each sample, ``(B,)``.

    Returns:
        uint64 ``(B,)``. With one seed and one view, different samples have different seeds.

    Example:
        >>> sample_seeds(0, 1, [7, 8]).tolist()
        [10982949063525286192, 14649582107301795103]
        >>> sample_seeds(0, [1, 2], 8).tolist()[0]
        14649582107301795103
    """
    key = _mixed(np.array([seed % 2**64], np.uint64) + _STEP)
    for counter in (views, samples):
        key = _mixed(key + (np.atleast_1d(np.asarray(counter)).astype(np.uint64) + np.uint64(1)) * _STEP)
    return key


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
    return (bits >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit integers in which each bit of the argument changes about half of the result's bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
