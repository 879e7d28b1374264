"""Whether a model is as often right as it believes to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ['BINS', 'Calibration', 'calibration']

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram.

    Args:
        edges: ``(bins + 1,)`` Of the bins of confidence, from 0 to 1.
        counts: ``(bins,)`` Samples in each bin.
        confidence: ``(bins,)`` Their mean confidence; NaN where there are none.
        accuracy: ``(bins,)`` The share of them that is right; NaN where there are none.
        is_whole: Whether all samples are in it: False where a confidence was not finite.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    is_whole: bool = True

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of accuracy and confidence, bins weighed by samples.

        NaN without samples, and where a confidence was not finite.
        """
        if not self.is_whole or not self.counts.sum():
            return float('nan')
        return float(np.nansum(self.counts * np.abs(self.accuracy - self.confidence)) / self.counts.sum())


def calibration(
    confidence: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray, bins: int = BINS
) -> Calibration:
    r"""Sorts samples into bins of equal width by their confidence.

    The expected calibration error is :math:`\sum_b \frac{n_b}{n} |acc_b - conf_b|` (Naeini et al. 2015; Guo et al.
    2017, who take 15 bins).

    Args:
        confidence: ``(N,)`` The probability of the class that was put first; one that is not finite is in no bin.
        correct: ``(N,)`` Whether that was right.
        bins: How many; a bin holds its lower edge, the last one both.

    Returns:
        The diagram, with the error.

    Example:
        >>> round(calibration([0.9, 0.9, 0.9, 0.6], [True, True, False, True], bins=5).error, 3)
        0.275
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    finite = np.isfinite(confidence)
    whole, confidence, correct = bool(finite.all()), confidence[finite], correct[finite]
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side='right') - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid='ignore', divide='ignore'):
        mean, right = (np.bincount(place, weights=values, minlength=bins) / counts for values in (confidence, correct))
        return Calibration(edges, counts, mean, right, whole)
