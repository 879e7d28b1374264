"""Draws losses and accuracy over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from composer_kd.presentation.plots import Drawing, canvas, heading, tidy
from composer_kd.presentation.roles import TEACHER
from composer_kd.reports.evidence import Curve, EvaluationSet
from composer_kd.reports.figures.colours import colours
from composer_kd.reports.groups import Group

__all__ = ['draw_curves', 'mean_curve', 'thinned']

POINTS = 60
"""The number of points of a loss curve."""

_PANELS = {
    'task': ('task loss', 'on labelled training samples', 'loss'),
    'kd': ('distillation loss', 'distance to the teacher', 'loss'),
    'accuracy': ('accuracy', 'on the evaluation data', 'accuracy, %'),
}


def thinned(curve: Curve, last: int, points: int = POINTS) -> Curve:
    """Averages a curve over spans of equal length.

    Args:
        curve: The curve; values that are not finite are ignored.
        last: The last batch of the longest curve in the same plot.
        points: The number of spans from batch 0 to ``last``.

    Returns:
        One point for each span in which the curve has values: the mean of their batches and of the values.

    Example:
        >>> curve = Curve(np.array([0, 1, 2, 3]), np.array([4.0, 2.0, 1.0, 1.0]))
        >>> thinned(curve, last=3, points=2).values
        array([3., 1.])
    """
    kept = np.isfinite(curve.values)
    batches, values = curve.batches[kept], curve.values[kept]
    place = np.minimum(batches * points // (last + 1), points - 1)
    counts = np.bincount(place, minlength=points)
    there = counts > 0
    means = (
        np.bincount(place, weights=weights, minlength=points)[there] / counts[there] for weights in (batches, values)
    )
    return Curve(*means)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Computes the mean of curves at the batches for which all of them have a value.

    Args:
        curves: One or more curves.

    Returns:
        The mean curve.

    Example:
        >>> mean_curve([Curve(np.array([0, 1]), np.array([1.0, 3.0])), Curve(np.array([1, 2]), np.array([5.0, 0.0]))])
        Curve(batches=array([1]), values=array([4.]))
    """
    common = curves[0].batches
    for curve in curves[1:]:
        common = np.intersect1d(common, curve.batches)
    rows = [curve.values[np.searchsorted(curve.batches, common)] for curve in curves]
    return Curve(common, np.mean(rows, axis=0))


def draw_curves(groups: Sequence[Group], evaluation: EvaluationSet) -> Drawing | None:
    """Draws the task loss, the distillation loss and the accuracy on the evaluation data, one panel each."""
    panels = [key for key in _PANELS if any(key in one.curves for each in groups for one in each.members)]
    if not panels:
        return None
    last = max(
        int(curve.batches[-1])
        for each in groups
        for one in each.members
        for curve in one.curves.values()
        if len(curve.batches)
    )
    with canvas(3.7 * len(panels) + 0.4, 3.7) as figure:
        for axes, key in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            _panel(axes, key, groups, evaluation, last)
        shown = {
            line.get_label(): line
            for axes in figure.axes
            for line in axes.get_lines()
            if not str(line.get_label()).startswith('_')
        }
        figure.legend(
            handles=list(shown.values()),
            loc='outside lower center',
            ncols=min(4, len(shown)),
            frameon=False,
            fontsize=9,
        )
    return Drawing(
        'curves',
        'Losses and accuracy',
        'Thick lines are means, thin ones the runs of each seed. Losses are those of the training batches'
        + (f', averaged over about {_span(last)} batches' if last >= POINTS else '')
        + '; the task loss of a batch without labels counts as 0. The distillation loss is logged before '
        'kd_loss_weight. Accuracy is that of the evaluation data; the dashed line is where the teacher ended.',
        figure,
    )


def _span(last: int) -> int:
    return max(1, round((last + 1) / POINTS))


def _panel(axes: Any, key: str, groups: Sequence[Group], evaluation: EvaluationSet, last: int) -> None:
    colour = colours(groups)
    accuracy = key == 'accuracy'
    for each in groups:
        found = [one.curves[key] for one in each.members if key in one.curves and len(one.curves[key].batches)]
        found = [Curve(one.batches, 100 * one.values) if accuracy else thinned(one, last) for one in found]
        if not found:
            continue
        if len(found) > 1:
            for one in found:
                axes.plot(one.batches, one.values, color=colour[each.name], linewidth=0.8, alpha=0.3, clip_on=False)
        mean = mean_curve(found)
        few = 'o' if len(mean.batches) <= 12 else None
        axes.plot(
            mean.batches,
            mean.values,
            color=colour[each.name],
            linewidth=2.0,
            marker=few,
            markersize=3.5,
            label=each.name,
            clip_on=False,  # a point on the edge is drawn whole
            zorder=3,
        )
    if accuracy:
        _teachers_level(axes, groups, evaluation, colour)
    title, under, label = _PANELS[key]
    heading(axes, title, under)
    axes.set_xlabel('batches')
    axes.set_ylabel(label)
    axes.set_xlim(0, max(1, last))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if not accuracy:
        axes.set_ylim(bottom=0)
    else:
        low, high = axes.get_ylim()
        axes.set_ylim(max(0.0, low), min(100.0, high))
    tidy(axes)


def _teachers_level(axes: Any, groups: Sequence[Group], evaluation: EvaluationSet, colour: dict[str, str]) -> None:
    for each in groups:
        level = each.accuracy(evaluation)
        if each.role == TEACHER and level is not None:
            axes.axhline(100 * level.mean, color=colour[each.name], linestyle='--', linewidth=1.1)
