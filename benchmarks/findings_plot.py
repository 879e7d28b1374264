"""The plots of ``findings.py``: what decides each claim, with standard errors, and the bar."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import findings_claims as claims
from benchmarks.findings_claims import CHANCE, Cell
from composer_kd.presentation.files import write_file
from composer_kd.presentation.plots import BLUE, GREY, MUTED, ORANGE, canvas, png, tidy, title

__all__ = ['plot']

TEACHER, ALONE, TAUGHT = GREY, ORANGE, BLUE
OPTIMIZERS = {'adamw': 'AdamW', 'adam': 'Adam', 'sgd': 'SGD', 'adagrad': 'Adagrad', 'adadelta': 'Adadelta',
              'rmsprop': 'RMSprop'}  # fmt: skip


def plot(study: Any, bar: Any, reported: Sequence[float], out: pathlib.Path) -> None:
    """Writes ``findings.png``, of what was run so far, and ``findings_bar.png`` once the bar was.

    Args:
        study: The claims.
        bar: The bar of the shallow CNN.
        reported: The study's student alone, after distillation, and teacher, in %.
        out: The folder.
    """
    if study.runs:
        seeds = len({seed for _, seed in study.runs})
        over = f'{seeds} seed{"s" * (seeds > 1)}'
        with canvas(15, 8.4) as figure:
            panels = figure.subplots(2, 3).flat
            for draw, panel in zip((_teachers, _losses, _weights, _distilled, _alone, _pairs), panels):
                draw(panel, study)
                tidy(panel)
            title(figure, f'Five claims on CIFAR-10 (16x16): test accuracy in %, mean ± standard error of {over}')
        write_file(out / 'findings.png', png(figure))
    if bar.runs:
        with canvas(8.2, 4.6) as figure:
            panel = figure.subplots()
            _bar(panel, bar, reported)
            tidy(panel)
        write_file(out / 'findings_bar.png', png(figure))


def _point(study: Any, cell: Any) -> tuple[float, float]:
    """Mean and standard error in %; not a number where nothing was run."""
    results = [result for (other, _), result in study.runs.items() if other == cell]
    values = [100 * (CHANCE if 'failed' in result else result['accuracy']) for result in results]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return (statistics.fmean(values), error) if values else (float('nan'), 0.0)


def _dots(panel: Any, study: Any, places: Sequence[float], cells: Sequence[Any], colour: str, **style: Any) -> None:
    points = [_point(study, cell) for cell in cells]
    heights, errors = zip(*points)
    style = {'fmt': 'o', 'capsize': 4, 'markersize': 6, **style}
    panel.errorbar(places, heights, yerr=errors, color=colour, **style)


def _names(panel: Any, names: Sequence[str], head: str) -> None:
    panel.set_xticks(range(len(names)), names)
    panel.set_xlim(-0.5, len(names) - 0.5)
    panel.set_title(head)


def _level(panel: Any, study: Any, cell: Cell, colour: str, name: str) -> None:
    height, error = _point(study, cell)
    panel.axhline(height, color=colour, linestyle='--', linewidth=1.2, label=name)
    panel.axhspan(height - error, height + error, color=colour, alpha=0.15, linewidth=0)


def _teachers(panel: Any, study: Any) -> None:
    names = [claims.TUNED, claims.RAW, claims.FRESH]
    _level(panel, study, claims.ALONE, ALONE, 'student alone')
    _dots(panel, study, range(3), [Cell(teacher=name) for name in names], TAUGHT, label='taught')
    right = [100 * study.teachers[name]['accuracy'] if name in study.teachers else float('nan') for name in names]
    panel.scatter(range(3), right, color=TEACHER, marker='s', label='the teacher itself')
    _names(panel, ['fine-tuned', 'as it comes', 'fresh head'], '1  ResNet-20 teaches: fine-tuned first?')
    panel.legend(frameon=False, fontsize=9)


def _losses(panel: Any, study: Any) -> None:
    hot = [claims.at_temperature(t) for t in claims.TEMPERATURES]
    _level(panel, study, claims.ALONE, ALONE, 'student alone')
    _dots(panel, study, range(len(hot)), hot, TAUGHT, fmt='o-', label='KL divergence')
    others = [claims.MSE, claims.COSINE]
    _dots(panel, study, range(len(hot), len(hot) + 2), others, TAUGHT, fmt='D', label='other losses')
    _names(panel, [*(f'T={t:g}' for t in claims.TEMPERATURES), 'MSE', 'cosine'], '2  Temperatures, MSE and cosine')
    panel.legend(frameon=False, fontsize=9)


def _weights(panel: Any, study: Any) -> None:
    _level(panel, study, claims.ALONE, ALONE, 'student alone')
    _dots(panel, study, claims.WEIGHTS, [claims.at_weight(w) for w in claims.WEIGHTS], TAUGHT, fmt='o-', label='taught')
    panel.axvline(0.3, color=TEACHER, linestyle=':', linewidth=1)
    panel.set_xlabel('weight of distillation (cross-entropy has the rest)')
    panel.set_title('3  Below 30 %?')
    panel.legend(frameon=False, fontsize=9)


def _optimizers(panel: Any, study: Any, taught: bool, title: str) -> None:
    for offset, tuned, filled in ((-0.12, False, 'white'), (0.12, True, None)):
        cells = [claims.by(name, taught, tuned) for name in OPTIMIZERS]
        label = 'tuned rate' if tuned else "torch's default rate"
        places = [place + offset for place in range(len(cells))]
        _dots(panel, study, places, cells, TAUGHT if taught else ALONE, markerfacecolor=filled, label=label)
    _names(panel, list(OPTIMIZERS.values()), title)
    panel.legend(frameon=False, fontsize=9)


def _distilled(panel: Any, study: Any) -> None:
    _optimizers(panel, study, True, '4  Optimizers of the distilled student')


def _alone(panel: Any, study: Any) -> None:
    _optimizers(panel, study, False, '4  The same, of the student alone')


def _pairs(panel: Any, study: Any) -> None:
    pairs = [(claims.RNN_ALONE, claims.TO_RNN), (claims.ALONE, claims.FROM_RNN), (claims.ALONE, claims.TAUGHT)]
    _dots(panel, study, [place - 0.1 for place in range(3)], [pair[0] for pair in pairs], ALONE, label='student alone')
    _dots(panel, study, [place + 0.1 for place in range(3)], [pair[1] for pair in pairs], TAUGHT, label='taught')
    _names(panel, ['CNN to RNN', 'RNN to CNN', 'CNN to CNN'], '5  Across architectures')
    panel.legend(frameon=False, fontsize=9)


def _bar(panel: Any, bar: Any, reported: Sequence[float]) -> None:
    alone, *taught = (cell for cell in bar.rates if any(other == cell for other, _ in bar.runs))
    names = ['the study', *(f'here, from\n{cell.teacher}' for cell in taught)]
    panel.scatter([-0.18, 0, 0.18], reported, color=[ALONE, TAUGHT, TEACHER], marker='x', s=60)
    places = range(1, len(names))
    _dots(panel, bar, [place - 0.18 for place in places], [alone] * len(taught), ALONE, label='student alone')
    _dots(panel, bar, list(places), taught, TAUGHT, label='after distillation')
    right = [100 * bar.teachers[cell.teacher]['accuracy'] for cell in taught]
    panel.scatter([place + 0.18 for place in places], right, color=TEACHER, marker='s', label='teacher')
    panel.axhline(reported[1], color=TAUGHT, linestyle=':', linewidth=1.2, label='to beat')
    marks = [(offset, value) for offset, value in zip((-0.18, 0, 0.18), reported)]
    for place, cell, accuracy in zip(places, taught, right):
        marks += [(place - 0.18, _point(bar, alone)[0]), (place, _point(bar, cell)[0]), (place + 0.18, accuracy)]
    for x, y in marks:
        panel.annotate(f'{y:.1f}', (x, y), (8, -3), textcoords='offset points', fontsize=9, color=MUTED)
    _names(panel, names, 'ShallowCNN on CIFAR-10, test accuracy in %, last batch, mean ± standard error')
    panel.legend(frameon=False, fontsize=9)
