"""Means with standard errors, and differences with confidence intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t  # type: ignore[import-untyped]

__all__ = ['Difference', 'Estimate', 'difference_of_answers', 'difference_of_runs']

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Args:
        mean: The mean.
        error: Its standard error; None for a single run.
        n: The number of runs.

    Example:
        >>> estimate = Estimate.of([0.9, 0.8, 0.7])
        >>> round(estimate.mean, 6), round(estimate.error, 6), estimate.n
        (0.8, 0.057735, 3)
    """

    mean: float
    error: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Computes the mean and standard error of one or more values."""
        n = len(values)
        return cls(statistics.fmean(values), statistics.stdev(values) / math.sqrt(n) if n > 1 else None, n)


@dataclass(frozen=True)
class Difference:
    """The difference of two accuracies, with a 95 % confidence interval.

    Args:
        mean: The difference of the means.
        low: The lower end of the interval.
        high: The upper end of the interval.
        over: The source of the variation that the interval covers, in words, such as ``'3 seeds, in pairs'``.
    """

    mean: float
    low: float
    high: float
    over: str

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def difference_of_runs(
    better: Mapping[Any, float], other: Mapping[Any, float], *, limit: float = 1.0
) -> Difference | None:
    """Compares the accuracies of two groups of runs: in pairs if both have the same seeds, else by Welch's t-interval.

    Args:
        better: The accuracies of the first group, by seed.
        other: The accuracies of the second group, by seed.
        limit: The largest difference there can be; accuracies differ by at most 1.

    Returns:
        The first minus the second; None if one of them has fewer than two runs.

    Example:
        >>> difference_of_runs({0: 0.9, 1: 0.8}, {0: 0.7, 1: 0.6}).over
        '2 seeds, in pairs'
    """
    if len(better) < 2 or len(other) < 2:
        return None
    if better.keys() == other.keys():
        pairs = [better[seed] - other[seed] for seed in better]
        estimate = Estimate.of(pairs)
        assert estimate.error is not None
        return _interval(estimate.mean, estimate.error, len(pairs) - 1, f'{len(pairs)} seeds, in pairs', limit)
    groups = [list(values.values()) for values in (better, other)]
    parts = [statistics.variance(values) / len(values) for values in groups]
    mean = statistics.fmean(groups[0]) - statistics.fmean(groups[1])
    over = f'{len(better)} and {len(other)} seeds'
    if not sum(parts):
        return Difference(mean, mean, mean, over)
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, groups))
    return _interval(mean, math.sqrt(sum(parts)), freedom, over, limit)


def difference_of_answers(better: np.ndarray, other: np.ndarray, *, limit: float = 1.0) -> Difference | None:
    """Compares the accuracies of two models on the same samples, in pairs.

    The interval covers the choice of the samples, but not the choice of the seed.

    Args:
        better: ``(N,)`` For each sample, whether the first model predicts its label, or the share of its runs that do.
        other: ``(N,)`` The same for the second model.
        limit: The largest difference there can be; accuracies differ by at most 1.

    Returns:
        The first minus the second; None with fewer than two samples.

    Example:
        >>> difference_of_answers(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 0.0])).mean
        0.25
    """
    if len(better) < 2:
        return None
    estimate = np.asarray(better, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    error = float(estimate.std(ddof=1)) / math.sqrt(len(estimate))
    return _interval(float(estimate.mean()), error, len(estimate) - 1, f'{len(estimate):,} samples', limit)


def _interval(mean: float, error: float, freedom: float, over: str, limit: float) -> Difference:
    reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Difference(mean, max(-limit, mean - reach), min(limit, mean + reach), over)
