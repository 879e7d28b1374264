"""Metrics of predictions: accuracy by class, confusion, agreement, calibration; and the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    'BINS',
    'Calibration',
    'agreement',
    'calibration',
    'class_accuracies',
    'clear_front',
    'confusion',
    'most_changed',
    'pareto_front',
]


def agreement(predicted: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """Computes the share of samples for which two models predict the same class.

    Args:
        predicted: ``(N,)`` The predicted classes of a model.
        others: The predicted classes of other models, each ``(N,)``.

    Returns:
        The mean share over the other models, from 0 to 1.

    Example:
        >>> agreement(np.array([0, 1, 2]), [np.array([0, 1, 1])])
        0.6666666666666666
    """
    return float(np.mean([np.mean(predicted == other) for other in others]))


def class_accuracies(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Computes the accuracy on the samples of each class.

    Args:
        labels: ``(N,)`` The labels.
        predicted: ``(N,)`` The predicted classes.
        classes: The number of classes.

    Returns:
        The accuracies ``(classes,)``, from 0 to 1; NaN for a class without samples.

    Example:
        >>> class_accuracies(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        array([0.5, 1. ])
    """
    with np.errstate(invalid='ignore', divide='ignore'):
        right = np.bincount(labels, weights=labels == predicted, minlength=classes)
        return right / np.bincount(labels, minlength=classes)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Computes the confusion matrix, normalised by row.

    Args:
        labels: ``(N,)`` The labels.
        predicted: ``(N,)`` The predicted classes.
        classes: The number of classes.

    Returns:
        The shares ``(classes, classes)``, with labels as rows and predicted classes as columns; each row sums to 1. NaN
        in the row of a class without samples.

    Example:
        >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        array([[0.5, 0.5],
               [0. , 1. ]])
    """
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    with np.errstate(invalid='ignore', divide='ignore'):
        return counts / counts.sum(axis=1, keepdims=True)


def most_changed(change: np.ndarray, most: int) -> np.ndarray:
    """Finds the entries with the largest absolute change.

    Args:
        change: ``(N,)`` Differences; NaN is treated as 0.
        most: The maximum number of entries.

    Returns:
        Their indices, the largest change first, equal ones in their original order. If there are more than ``most``
        entries, those without a change are left out.

    Example:
        >>> most_changed(np.array([0.1, -0.3, 0.0, np.nan]), 2)
        array([1, 0])
    """
    size = np.nan_to_num(np.abs(change))
    order = np.argsort(-size, kind='stable')
    return order if len(order) <= most else order[:most][size[order[:most]] > 0]


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Finds the points that no other point dominates.

    A point dominates another if it is better in cost or value, and no worse in the other of the two.

    Args:
        costs: The cost of each point, such as latency; lower is better.
        values: The value of each point, such as accuracy; higher is better.

    Returns:
        The indices of the points on the front, by rising cost; equal points are all included.

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
            front.append(index)  # equal to the last point in both
    return front


def clear_front(
    costs: Sequence[float], values: Sequence[float], noise: Callable[[int, int], tuple[float, float]]
) -> list[int]:
    """Finds the points that no other point clearly dominates.

    A point clearly dominates another if it is better in cost or value by more than the noise, and not worse by more
    than the noise in the other of the two.

    Args:
        costs: The cost of each point, such as latency; lower is better.
        values: The value of each point, such as accuracy; higher is better.
        noise: Returns, for the indices of two points, the noise of the difference of their costs and of their values.

    Returns:
        The indices of the points on the front, by rising cost. Without noise, those of :func:`pareto_front`.

    Example:
        >>> clear_front([1.0, 1.1, 3.0], [0.7, 0.9, 0.92], lambda one, other: (0.2, 0.05))
        [1]
    """

    def beats(one: int, other: int) -> bool:
        cost, value = noise(one, other)
        cheaper, better = costs[other] - costs[one], values[one] - values[other]
        return (cheaper > cost and better >= -value) or (better > value and cheaper >= -cost)

    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i]))
    front = [one for one in order if not any(beats(other, one) for other in order)]
    return front or pareto_front(costs, values)  # noise may leave each one beaten by another


BINS = 15


@dataclass(frozen=True)
class Calibration:
    """The data of a reliability diagram.

    Args:
        edges: ``(bins + 1,)`` The edges of the confidence bins, from 0 to 1.
        counts: ``(bins,)`` The number of samples in each bin.
        confidence: ``(bins,)`` Their mean confidence; NaN for an empty bin.
        accuracy: ``(bins,)`` Their accuracy; NaN for an empty bin.
        is_whole: Whether it contains all samples; False if some confidence was not finite.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    is_whole: bool = True

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap between accuracy and confidence, bins weighted by samples.

        NaN without samples, or if some confidence was not finite.
        """
        if not self.is_whole or not self.counts.sum():
            return float('nan')
        return float(np.nansum(self.counts * np.abs(self.accuracy - self.confidence)) / self.counts.sum())


def calibration(
    confidence: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray, bins: int = BINS
) -> Calibration:
    r"""Computes a reliability diagram with confidence bins of equal width.

    The expected calibration error is :math:`\sum_b \frac{n_b}{n} |acc_b - conf_b|` (Naeini et al. 2015; Guo et al.
    2017, who use 15 bins).

    Args:
        confidence: ``(N,)`` The probability of the predicted class; values that are not finite are in no bin.
        correct: ``(N,)`` Whether the predicted class equals the label.
        bins: The number of bins. A bin includes its lower edge; the last bin also includes its upper edge.

    Returns:
        The diagram; its ``error`` is the expected calibration error.

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
