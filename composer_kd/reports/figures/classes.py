"""Draws the accuracy of each class before and after distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from composer_kd.presentation.plots import COLOURS, GRID, INK, MUTED, Drawing, canvas, heading, tidy
from composer_kd.presentation.roles import TEACHER
from composer_kd.presentation.units import points
from composer_kd.reports.evidence import EvaluationSet
from composer_kd.reports.groups import Group
from composer_kd.reports.metrics import class_accuracies, most_changed

__all__ = ['MOST_CLASSES', 'draw_classes', 'shortened']

_APART = 0.24  # of a row, from the middle
MOST_CLASSES = 20
"""The maximum number of classes in a plot, for readability; those that changed most are shown."""


def shortened(name: str, most: int = 24) -> str:
    """Shortens a name, so that it fits next to an axis.

    Example:
        >>> shortened('a rather long name of a class', 12)
        'a rather lo…'
    """
    return name if len(name) <= most else f'{name[: most - 1]}…'


def draw_classes(
    teacher: Group | None, alone: Group | None, distilled: Group | None, evaluation: EvaluationSet
) -> Drawing | None:
    """Draws the accuracy of each class before and after distillation, and the change with its standard error.

    Args:
        teacher: The teacher; None without one.
        alone: The student alone; None without one.
        distilled: The distilled student; None without one.
        evaluation: The data on which they were evaluated.

    Returns:
        The plot; None if fewer than two of the models have predictions.
    """
    shown = [
        (each, found) for each in (teacher, alone, distilled) if each and (found := _of_runs(each, evaluation)).size
    ]
    if len(shown) < 2:
        return None
    (before, old), (after, new) = shown[-2:]
    change, error = new.mean(0) - old.mean(0), _error(old, new)
    counts = np.bincount(evaluation.labels, minlength=len(evaluation.classes))
    there = np.flatnonzero(counts)
    chosen = there[most_changed(change[there], MOST_CLASSES)]
    chosen = chosen if len(chosen) else there[:MOST_CLASSES]
    chosen = chosen[np.argsort(change[chosen], kind='stable')]
    with canvas(10.6, 1.4 + 0.34 * len(chosen)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={'width_ratios': [1.7, 1]})
        _levels(left, shown, chosen)
        _changes(right, change[chosen], None if error is None else error[chosen], (before.role, after.role))
        left.set_yticks(range(len(chosen)), [shortened(evaluation.classes[index]) for index in chosen])
        right.tick_params(labelleft=True)  # a narrow page shows the two panels one by one
        left.set_ylim(-0.7, len(chosen) - 0.3)
        heading(left, 'accuracy of the class')
        heading(right, f'{after.role} minus {before.role}')
        figure.legend(*left.get_legend_handles_labels(), loc='outside lower left', ncols=3, frameon=False, fontsize=9)
    caption = _caption(counts[there], len(chosen), error is not None)
    return Drawing('classes', 'Accuracy by class', caption, figure)


def _of_runs(each: Group, evaluation: EvaluationSet) -> np.ndarray:
    """Returns the accuracy of each class for each run, ``(runs, classes)``; empty without predictions."""
    number = len(evaluation.classes)
    answers = [one.answers.predicted for one in each.members if one.answers is not None]
    return np.array([class_accuracies(evaluation.labels, predicted, number) for predicted in answers])


def _error(old: np.ndarray, new: np.ndarray) -> np.ndarray | None:
    """Returns the standard error of the change of each class; None if one of the two has a single run."""
    if min(len(old), len(new)) < 2:
        return None
    return np.sqrt(sum(values.var(axis=0, ddof=1) / len(values) for values in (old, new)))


def _levels(axes: Any, shown: Sequence[tuple[Group, np.ndarray]], chosen: np.ndarray) -> None:
    means = [(each.role, 100 * values.mean(0)[chosen]) for each, values in shown]
    (_, start), (last, end) = means[-2:]
    rows = np.arange(len(chosen))
    places = np.linspace(-_APART, _APART, len(means))  # above one another, so that equal ones are all seen
    axes.plot([start, end], [rows + places[-2], rows + places[-1]], color=COLOURS[last], linewidth=1.4, alpha=0.4)
    for place, (role, values) in zip(places, means):
        marker = 's' if role == TEACHER and len(means) > 2 else 'o'
        axes.scatter(
            values, rows + place, color=COLOURS[role], label=role, zorder=3, marker=marker, s=26, clip_on=False
        )
    axes.set_xlabel('%')
    _rows(axes, rows)


def _changes(axes: Any, change: np.ndarray, error: np.ndarray | None, roles: tuple[str, str]) -> None:
    rows = np.arange(len(change))
    sides = [COLOURS[roles[int(value >= 0)]] for value in change]
    axes.barh(rows, 100 * change, color=sides, height=0.62, alpha=0.85, zorder=2)
    if error is not None:
        axes.errorbar(100 * change, rows, xerr=100 * error, fmt='none', ecolor=INK, elinewidth=1, capsize=2, zorder=3)
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, value in zip(rows, change):
        place = {'xycoords': ('axes fraction', 'data'), 'va': 'center', 'fontsize': 8.5, 'color': MUTED}
        axes.annotate(points(float(value)), (1.02, row), annotation_clip=False, **place)
    axes.set_xlabel('points')
    _rows(axes, rows)


def _rows(axes: Any, rows: np.ndarray) -> None:
    axes.hlines(rows, *axes.get_xlim(), color=GRID, linewidth=0.5, zorder=0)
    tidy(axes, 'x')
    axes.margins(x=0.02)
    axes.spines['left'].set_visible(False)
    axes.tick_params(axis='y', length=0)


def _caption(counts: np.ndarray, shown: int, has_errors: bool) -> str:
    few, many = int(counts.min()), int(counts.max())
    size = f'{few:,}' if few == many else f'{few:,} to {many:,}'
    return (
        (f'The {shown} most changed of {len(counts):,} classes. ' if shown < len(counts) else '')
        + f'A class has {size} samples, so that one sample is up to {100 / few:.1f} points.'
        + (' Means over seeds; the whiskers are the standard error of the change.' if has_errors else '')
    )
