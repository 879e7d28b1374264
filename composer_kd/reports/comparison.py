"""Numbers about answers: right ones by class, mistakes by kind, agreement, and what is dominated by what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ['agreement', 'class_accuracies', 'confusion', 'most_changed', 'pareto_front']


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
