"""Draws reliability diagrams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from composer_kd.presentation.plots import COLOURS, INK, MUTED, Drawing, canvas, heading, tidy
from composer_kd.presentation.units import percent
from composer_kd.reports.evidence import EvaluationSet
from composer_kd.reports.groups import Group
from composer_kd.reports.metrics import BINS, Calibration, calibration

__all__ = ['draw_calibration', 'pooled']


def pooled(group: Group, evaluation: EvaluationSet) -> Calibration | None:
    """Computes one reliability diagram from the predictions of all runs of a group; None without predictions."""
    answers = [one.answers for one in group.members if one.answers is not None]
    if not answers or not len(evaluation.labels):
        return None
    confidence = np.concatenate([one.confidence for one in answers])
    return calibration(confidence, np.concatenate([one.predicted == evaluation.labels for one in answers]))


def draw_calibration(shown: Sequence[Group | None], evaluation: EvaluationSet) -> Drawing | None:
    """Draws a reliability diagram for each model, above a histogram of its confidences.

    Args:
        shown: The models, usually the teacher, the student alone and the distilled student; None is left out.
        evaluation: The data on which they were evaluated.

    Returns:
        The plot; None without predictions.
    """
    panels = [(each, found) for each in shown if each is not None and (found := pooled(each, evaluation)) is not None]
    if not panels:
        return None
    with canvas(3.7 * len(panels), 4.3) as figure:
        grid = figure.subplots(
            2,
            len(panels),
            squeeze=False,
            sharex=True,
            sharey='row',
            gridspec_kw={'height_ratios': [3, 1], 'wspace': 0.12},
        )
        for column, (each, found) in enumerate(panels):
            _reliability(grid[0][column], each, found, evaluation)
            _spread(grid[1][column], each, found)
        for row, label in zip(grid, ('share of right answers, %', 'samples, %')):
            for axes in row:  # each has its labels, since a narrow page shows them one by one
                axes.set_ylabel(label)
                axes.tick_params(labelleft=True)
    return Drawing(
        'calibration',
        'Calibration',
        'A well calibrated model is right as often as it is confident: its bars end at the dashed line. Bars below the '
        f'line are overconfident, bars above it too modest. ECE: expected calibration error over {BINS} bins of equal '
        'width of the largest probability'
        + (
            '; the mean over seeds, whose answers the bars show together'
            if any(each.n > 1 for each, _ in panels)
            else ''
        )
        + '. Pale bars stand for fewer than 10 samples. Below: how many samples have that confidence.',
        figure,
    )


def _reliability(axes: Any, each: Group, found: Calibration, evaluation: EvaluationSet) -> None:
    left, width = 100 * found.edges[:-1], 100 / len(found.counts)
    for enough, alpha in ((found.counts >= 10, 0.85), ((found.counts > 0) & (found.counts < 10), 0.3)):
        heights = np.where(enough, 100 * found.accuracy, 0.0)
        axes.bar(
            left[enough],
            heights[enough],
            width=width * 0.92,
            align='edge',
            color=COLOURS[each.role],
            alpha=alpha,
            zorder=2,
        )
    axes.plot([0, 100], [0, 100], color=INK, linestyle='--', linewidth=1, zorder=3)
    error = each.estimate(
        lambda one: (
            None
            if one.answers is None
            else calibration(one.answers.confidence, one.answers.predicted == evaluation.labels).error
        )
    )
    heading(axes, each.role, 'ECE unknown' if error is None else f'ECE {percent(error.mean, error.error)} %')
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    tidy(axes)


def _spread(axes: Any, each: Group, found: Calibration) -> None:
    width = 100 / len(found.counts)
    axes.bar(
        100 * found.edges[:-1],
        100 * found.counts / max(1, found.counts.sum()),
        width=width * 0.92,
        align='edge',
        color=COLOURS[each.role],
        alpha=0.6,
    )
    axes.set_xlabel('confidence, %')
    axes.set_ylim(bottom=0)
    axes.tick_params(colors=MUTED)
    tidy(axes)
