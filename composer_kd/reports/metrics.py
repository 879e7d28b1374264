"""Numbers about answers: right ones by class, mistakes by kind, agreement, and what is dominated by what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    'BINS',
    'Calibration',
    'agreement',
    'calibration',
    'class_accuracies',
    'confusion',
    'most_changed',
    'pareto_front',
]


def agreement(predicted: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """The share of samples for which a model puts the same class first as another; the mean over several others.

    Example:
        >>> agreement(np.array([0, 1, 2]), [np.array([0, 1, 1])])
        0.6666666666666666
    """
    return float(np.mean([np.mean(predicted == other) for other in others]))


def class_accuracies(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The share of right answers among the samples of each class.

    Args:
        labels: ``(N,)`` The right classes.
        predicted: ``(N,)`` The answers.
        classes: How many classes there are.

    Returns:
        ``(classes,)``; NaN for a class without samples.

    Example:
        >>> class_accuracies(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        array([0.5, 1. ])
    """
    with np.errstate(invalid='ignore', divide='ignore'):
        right = np.bincount(labels, weights=labels == predicted, minlength=classes)
        return right / np.bincount(labels, minlength=classes)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How the samples of each class are answered.

    Args:
        labels: ``(N,)`` The right classes.
        predicted: ``(N,)`` The answers.
        classes: How many classes there are.

    Returns:
        ``(classes, classes)`` Shares: a row is a right class, a column an answer, a row's sum is 1. NaN in the row of a
        class without samples.

    Example:
        >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        array([[0.5, 0.5],
               [0. , 1. ]])
    """
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    with np.errstate(invalid='ignore', divide='ignore'):
        return counts / counts.sum(axis=1, keepdims=True)


def most_changed(change: np.ndarray, most: int) -> np.ndarray:
    """Where a change is largest, either way.

    Args:
        change: ``(N,)`` Differences; NaN counts as none.
        most: How many places at most.

    Returns:
        Their indices, the largest change first; of equal ones the first. Places without a change are left out where
        there are more places than ``most``.

    Example:
        >>> most_changed(np.array([0.1, -0.3, 0.0, np.nan]), 2)
        array([1, 0])
    """
    size = np.nan_to_num(np.abs(change))
    order = np.argsort(-size, kind='stable')
    return order if len(order) <= most else order[:most][size[order[:most]] > 0]


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """The points that no other point beats: none costs as little or less, is as good or better, and one of them truly.

    Args:
        costs: Less is better, such as latency.
        values: More is better, such as accuracy.

    Returns:
        The indices of the points on the front, by rising cost.

    Example:
        >>> pareto_front([1.0, 2.0, 3.0, 2.5], [0.7, 0.9, 0.8, 0.95])
        [0, 1, 3]
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i]))
    front: list[int] = []
    for index in order:
        last = front[-1] if front else None
        if last is None or values[index] > values[last]:
            front.append(index)
        elif values[index] == values[last] and costs[index] == costs[last]:
            front.append(index)  # the very same point
    return front


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
