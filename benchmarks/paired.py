"""Which differences between methods are larger than the noise of seeds and of test samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ['LEVEL', 'RULE', 'Difference', 'compare']

LEVEL = 0.05
RULE = """\
The rule, fixed before the runs: differences are paired, of the same seeds on the same test samples. Their squared
standard error is the sum of two. That of the test samples: the variance over samples of the difference, averaged over
seeds, where samples of one premise count as one. That of the seeds: 2 s²/S for S seeds, where s² is the mean square
that is left of the accuracies of all methods and seeds of the table after the means of methods and of seeds are taken
away; it holds a part of the first once more, so that the sum is rather too large. A difference is larger than the noise
if its p value, two-sided by Student's t with the degrees of freedom of s², is so small that by Holm's procedure the
chance of a single wrong statement among all comparisons of the table is at most 5 %."""

K = TypeVar('K', bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Difference(Generic[K]):
    """How much more often one method is right than another.

    Attributes:
        first: A method.
        second: What it is compared with.
        mean: The difference of their accuracies.
        error: Its standard error, of seeds and samples; nan of a single seed.
        p: The p value; nan of a single seed.
        needed: How large it would have to be to be larger than the noise as the only one of all comparisons.
        is_larger: Whether it is larger than the noise, as one of several comparisons.
    """

    first: K
    second: K
    mean: float
    error: float
    p: float
    needed: float
    is_larger: bool


def compare(
    right: Mapping[K, NDArray[np.bool_]], pairs: Sequence[tuple[K, K]], groups: Sequence[int], noisy: Sequence[K]
) -> list[Difference[K]]:
    """Compares methods by the rule above.

    Args:
        right: For each method, which samples it gets right: ``(seeds, samples)``, of the same seeds and samples.
        pairs: Which methods are compared; all together are one family of comparisons.
        groups: For each sample a number that dependent samples share.
        noisy: The methods whose scatter over seeds is the noise of seeds: those that were trained on their own.

    Example:
        >>> chance = np.random.RandomState(0)
        >>> right = {name: chance.rand(3, 1000) < share for name, share in (('a', 0.9), ('b', 0.8), ('c', 0.8))}
        >>> found = compare(right, [('a', 'b'), ('b', 'c')], range(1000), list(right))
        >>> [(one.first, one.second, round(one.mean, 2), one.is_larger) for one in found]
        [('a', 'b', 0.11, True), ('b', 'c', -0.01, False)]
    """
    variance, freedom = _noise_of_seeds(np.array([right[name].mean(1) for name in noisy]))
    quantile = float(stats.t.isf(LEVEL / 2 / max(len(pairs), 1), freedom))
    found: list[Difference[K]] = []
    for first, second in pairs:
        difference = right[first].mean(0) - right[second].mean(0)
        mean = float(difference.mean())
        error = float(np.sqrt(_of_samples(difference, groups) + variance))
        p = float(2 * stats.t.sf(abs(mean) / error, freedom)) if error else 1.0
        found.append(Difference(first, second, mean, error, p, quantile * error, False))
    larger = _holm([one.p for one in found])
    return [dataclasses.replace(one, is_larger=yes) for one, yes in zip(found, larger)]


def _noise_of_seeds(accuracies: NDArray[np.float64]) -> tuple[float, int]:
    """The squared standard error of a difference by the seeds ``(methods, seeds)``, and its degrees of freedom."""
    freedom = (accuracies.shape[0] - 1) * (accuracies.shape[1] - 1)
    if freedom < 1:
        return float('nan'), 0
    left = accuracies - accuracies.mean(1, keepdims=True) - accuracies.mean(0, keepdims=True) + accuracies.mean()
    return float(2 * (left**2).sum() / freedom / accuracies.shape[1]), freedom


def _of_samples(difference: NDArray[np.float64], groups: Sequence[int]) -> float:
    """The squared standard error of a mean over samples, where those of a group may depend on one another."""
    numbers = np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.bincount(numbers, difference - difference.mean())
    return float((sums**2).sum() / len(difference) ** 2 * len(sums) / max(len(sums) - 1, 1))


def _holm(values: Sequence[float]) -> list[bool]:
    """Which of several p values hold together at the level; nan never does."""
    found = [False] * len(values)
    order = sorted(range(len(values)), key=lambda index: (np.isnan(values[index]), values[index]))
    for place, index in enumerate(order):
        if not values[index] <= LEVEL / (len(values) - place):
            break
        found[index] = True
    return found
