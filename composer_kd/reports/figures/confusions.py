"""Draws which confusions of classes one model makes more often than another."""

from __future__ import annotations

from typing import Any

import numpy as np

from composer_kd.presentation.plots import GRID, INK, Drawing, canvas, heading, tidy
from composer_kd.presentation.units import MINUS
from composer_kd.reports.evidence import EvaluationSet
from composer_kd.reports.figures.classes import MOST_CLASSES, shortened
from composer_kd.reports.figures.colours import between
from composer_kd.reports.groups import Group
from composer_kd.reports.metrics import confusion, most_changed

__all__ = ['draw_confusions']

MOST_PAIRS = 14
BETTER, WORSE = '#2166ac', '#b2182b'
"""The colours of better and worse, which colour-blind readers can distinguish and no role has."""
_IN_A_CELL = '#111827'  # readable on a light cell, in a dark page too
_MOST_WRITTEN = 12  # maximum number of classes for which numbers fit into the cells


def draw_confusions(pairs: list[tuple[Group, Group]], evaluation: EvaluationSet) -> Drawing | None:
    """Draws the difference of two confusion matrices for each pair of models.

    Args:
        pairs: The pairs; the first minus the second is shown.
        evaluation: The data on which they were evaluated.

    Returns:
        Matrices; for many classes, bars of the confusions that changed most. None without predictions.
    """
    found = []
    for more, less in pairs:
        both = [
            each.mean(lambda predicted: confusion(evaluation.labels, predicted, len(evaluation.classes)))
            for each in (more, less)
        ]
        if both[0] is not None and both[1] is not None:
            found.append((more, less, 100 * np.nan_to_num(both[0] - both[1])))
    if not found:
        return None
    return _matrices(found, evaluation) if len(evaluation.classes) <= MOST_CLASSES else _bars(found, evaluation)


def _matrices(found: list[tuple[Group, Group, np.ndarray]], evaluation: EvaluationSet) -> Drawing:
    number = len(evaluation.classes)
    side = max(3.4, 0.42 * number)
    names = [shortened(name, 12) for name in evaluation.classes]
    with canvas((side + 1.1) * len(found), side + 0.9) as figure:
        for axes, (more, less, change) in zip(figure.subplots(1, len(found), squeeze=False)[0], found):
            # At least one point, so that tiny changes stay pale.
            limit = max(1.0, float(np.abs(change).max()))
            mesh = axes.pcolormesh(
                _better(change),
                cmap=between(WORSE, BETTER),
                vmin=-limit,
                vmax=limit,
                edgecolor=GRID,
                linewidth=0.4,
            )
            if number <= _MOST_WRITTEN:
                _write(axes, change, mesh)
            axes.set_xticks(np.arange(number) + 0.5, names, rotation=0 if max(map(len, names)) < 4 else 90)
            axes.set_yticks(np.arange(number) + 0.5, names)
            axes.invert_yaxis()
            axes.set_aspect('equal')
            axes.set_xlabel('answer')
            axes.set_ylabel('right class')
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            heading(axes, f'{more.role} minus {less.role}')
            bar = figure.colorbar(mesh, ax=axes, shrink=0.6, aspect=28, pad=0.02)
            bar.outline.set_visible(False)
            bar.ax.tick_params(length=0, labelsize=8)
            bar.set_label(f'{more.role}: better above 0, worse below, points', fontsize=8.5)
    return Drawing('confusions', 'Mistakes that changed', _caption(found), figure)


def _better(change: np.ndarray) -> np.ndarray:
    """Turns more answers into better ones: more right answers (the diagonal) are better, more mistakes worse."""
    better = -change
    np.fill_diagonal(better, change.diagonal())
    return better


def _caption(found: list[tuple[Group, Group, np.ndarray]]) -> str:
    more, less, _ = found[0]
    return (
        'Of 100 samples of the right class (row), how many more get that answer (column) from the first model than '
        'from the second. Blue is better in the first model, red worse: more right answers (on the diagonal) are '
        'better, more mistakes (elsewhere) worse.'
        + (' Means over seeds.' if any(each.n > 1 for each in (more, less)) else '')
    )


def _write(axes: Any, change: np.ndarray, mesh: Any) -> None:
    # The relative luminance, by which WCAG computes contrasts; from 0.2 on dark text is the more readable.
    cells = (mesh.to_rgba(_better(change))[..., :3] ** 2.2) @ np.array([0.2126, 0.7152, 0.0722])
    for (row, column), value in np.ndenumerate(change):
        if abs(value) >= 0.5:
            text = f'{value:+.0f}'.replace('-', MINUS)
            axes.text(
                column + 0.5,
                row + 0.5,
                text,
                ha='center',
                va='center',
                fontsize=7.5,
                color=_IN_A_CELL if cells[row, column] > 0.2 else 'white',
            )


def _bars(found: list[tuple[Group, Group, np.ndarray]], evaluation: EvaluationSet) -> Drawing:
    """Draws the pairs of classes that changed most, because a matrix of many classes would be unreadable."""
    with canvas(5.6 * len(found), 1.2 + 0.27 * MOST_PAIRS) as figure:
        for axes, (more, less, change) in zip(figure.subplots(1, len(found), squeeze=False)[0], found):
            off = change.copy()
            np.fill_diagonal(off, 0.0)
            chosen = [index for index in most_changed(off.ravel(), MOST_PAIRS) if off.ravel()[index]]
            chosen.sort(key=lambda index: off.ravel()[index], reverse=True)
            values = off.ravel()[chosen]
            names = [shortened(name, 16) for name in evaluation.classes]
            texts = [f'{names[index // len(off)]} → {names[index % len(off)]}' for index in chosen]
            sides = [WORSE if value > 0 else BETTER for value in values]  # all of them are mistakes
            axes.barh(np.arange(len(chosen)), values, color=sides, height=0.7, zorder=2)
            axes.set_yticks(np.arange(len(chosen)), texts, fontsize=8.5)
            axes.invert_yaxis()
            axes.axvline(0, color=INK, linewidth=0.8)
            axes.set_xlabel('points of the right class')
            heading(
                axes, f'{more.role} minus {less.role}', 'to the right, red: a mistake that the first makes more often'
            )
            tidy(axes, 'x')
            axes.tick_params(axis='y', length=0)
    return Drawing(
        'confusions',
        'Mistakes that changed',
        'Right class → answer: of 100 samples of the right class, how many more get this wrong answer from the first '
        f'model than from the second. The {MOST_PAIRS} kinds of mistakes that changed most, of '
        f'{len(evaluation.classes):,} classes.',
        figure,
    )
