"""The plots of a sweep: history, parallel coordinates and the importance of parameters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from matplotlib import cm, colormaps, colors
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from composer_kd.presentation.plots import BLUE, FAINT, GREY, INK, MUTED, ORANGE, RED, canvas, tidy, title
from composer_kd.presentation.settings import label, short_names
from composer_kd.presentation.units import percent
from composer_kd.workflows.sweep.space import Choice, Parameter, Range
from composer_kd.workflows.sweep.study import Record, Study
from composer_kd.workflows.sweep.sweep_file import Sweep

__all__ = ['FEW', 'draw_history', 'draw_importances', 'draw_parallel_coordinates', 'importances']

FEW = 10
"""Complete trials for each parameter; with fewer, importances are not estimated."""

_PALETTE = colors.ListedColormap(colormaps['viridis'](np.linspace(0.0, 0.75, 256)))
"""Viridis without its yellow end, which can hardly be seen on white."""

LONGEST = 24  # characters in the label of a choice
LONGEST_HEAD = 14  # characters in one line of an axis name
SPREAD = 0.3  # of the lines through one choice, relative to the distance between choices


def draw_history(records: Sequence[Record], sweep: Sweep) -> Figure:
    """Draws the metric of each trial, and the best value so far.

    Args:
        records: The trials.
        sweep: The sweep.
    """
    with canvas(8.5, 4.4) as figure:
        axes = figure.subplots()
        _draw_trials(axes, records)
        _draw_best_so_far(axes, records, sweep)
        axes.set_xlabel('trial')
        axes.set_ylabel(sweep.metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
        axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14), ncols=4, frameon=False)
        title(figure, f'{sweep.name}: {len(records)} trials')
    return figure


def _draw_trials(axes: Any, records: Sequence[Record]) -> None:
    kinds = {'complete': ('o', BLUE, 'complete'), 'pruned': ('v', FAINT, 'pruned: its last evaluation')}
    for state, (marker, colour, name) in kinds.items():
        points = [(r.number, r.value) for r in records if r.state == state and r.value is not None]
        if points:
            axes.scatter(*zip(*points), marker=marker, color=colour, s=34, zorder=3, label=name)
    failed = [record.number for record in records if record.state == 'failed']
    if failed:
        style = {'marker': 'x', 'color': RED, 'label': 'failed', 'transform': axes.get_xaxis_transform()}
        axes.scatter(failed, [0.02] * len(failed), **style)


def _draw_best_so_far(axes: Any, records: Sequence[Record], sweep: Sweep) -> None:
    complete = [(r.number, r.value) for r in records if r.state == 'complete' and r.value is not None]
    best: list[float] = []
    for _, value in complete:
        best.append(value if not best else max(best[-1], value, key=lambda one: sweep.sign * one))
    if best:
        numbers = [number for number, _ in complete] + [records[-1].number]
        axes.step(numbers, [*best, best[-1]], where='post', color=ORANGE, linewidth=1.8, label='best so far')


def draw_importances(shares: Mapping[str, float], complete: int, sweep: Sweep) -> Figure:
    """Draws the share of the metric's variance that each parameter explains.

    Args:
        shares: The share of each parameter, the largest first, from ``importances``.
        complete: The number of complete trials in the estimate.
        sweep: The sweep.
    """
    names = short_names(list(shares))
    with canvas(8.0, 1.3 + 0.42 * len(shares)) as figure:
        axes = figure.subplots()
        lengths = [100 * share for share in shares.values()]
        bars = axes.barh(range(len(shares)), lengths, color=BLUE, height=0.62, zorder=2)
        axes.bar_label(bars, [f'{percent(share)} %' for share in shares.values()], padding=4, color=INK)
        axes.set_yticks(range(len(shares)), [names[key] for key in shares])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * max(lengths))
        axes.set_xlabel(f'% of the variance of {sweep.metric}')
        tidy(axes, 'x')
        title(figure, f'{sweep.name}: what matters (fANOVA over {complete} complete trials)')
    return figure


def draw_parallel_coordinates(records: Sequence[Record], sweep: Sweep) -> Figure:
    """Draws each trial as a line through the values of its parameters, coloured by its metric.

    Args:
        records: The trials.
        sweep: The sweep.
    """
    parameters = [parameter for parameter in sweep.parameters if len(parameter.representatives()) > 1]
    shown = [record for record in records if record.value is not None and record.settings]
    scale = _scale([record.value or 0.0 for record in shown])
    with canvas(max(7.0, 1.75 * (len(parameters) + 1)), 5.0) as figure:
        axes = figure.subplots()
        for record, style in _styled(shown, sweep, scale):
            places = [_place(parameter, record, len(records)) for parameter in parameters]
            places.append((record.value - scale[0]) / (scale[1] - scale[0]))  # type: ignore[operator]
            axes.plot(range(len(places)), places, solid_joinstyle='round', **style)
        if any(record.state == 'pruned' for record in shown):
            axes.plot([], [], color=GREY, linestyle=(0, (3, 2)), label='pruned: its last evaluation')
        _draw_scales(axes, parameters, sweep, scale)
        bar = figure.colorbar(cm.ScalarMappable(colors.Normalize(*scale), _PALETTE), ax=axes, shrink=0.8, aspect=30)
        bar.outline.set_visible(False)
        bar.set_ticks([value for value in MaxNLocator(5).tick_values(*scale) if scale[0] <= value <= scale[1]])
        bar.set_label(sweep.metric.rpartition('/')[2])
        axes.legend(loc='upper center', bbox_to_anchor=(0.5, 0.0), ncols=2, frameon=False)
        title(figure, f'{sweep.name}: the settings of {len(shown)} trials')
    return figure


def _styled(
    shown: Sequence[Record], sweep: Sweep, scale: tuple[float, float]
) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Yields each trial with the style of its line; better trials come later and are drawn on top."""
    palette, norm = _PALETTE, colors.Normalize(*scale)
    complete = [record for record in shown if record.state == 'complete']
    best = max(complete, key=lambda record: sweep.sign * (record.value or 0.0), default=None)
    for record in sorted(shown, key=lambda record: (record.state == 'complete', sweep.sign * (record.value or 0.0))):
        style: dict[str, Any] = {'linewidth': 1.5, 'alpha': 0.85, 'color': palette(norm(record.value or 0.0))}
        if record.state != 'complete':
            style = {'linewidth': 1.0, 'alpha': 0.8, 'color': GREY, 'linestyle': (0, (3, 2))}
        if record is best:
            style = {'linewidth': 3.2, 'color': ORANGE, 'zorder': 5, 'label': f'best: trial {record.number}'}
        yield record, style


def _draw_scales(axes: Any, parameters: Sequence[Parameter], sweep: Sweep, scale: tuple[float, float]) -> None:
    ends = len(parameters)
    ticks = [_ticks(parameter) for parameter in parameters]
    round_ones = [value for value in MaxNLocator(5).tick_values(*scale) if scale[0] <= value <= scale[1]]
    ticks.append([((value - scale[0]) / (scale[1] - scale[0]), label(float(value))) for value in round_ones])
    box = {'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.75, 'pad': 1.0}
    for x, marks in enumerate(ticks):
        axes.axvline(x, color=MUTED, linewidth=1.0, zorder=4)
        for y, text in marks:
            axes.plot([x - 0.02, x + 0.02], [y, y], color=MUTED, linewidth=1.0, zorder=4)
            axes.annotate(text, (x, y), (5, 0), textcoords='offset points', va='center', fontsize=8, zorder=6, bbox=box)
    names = short_names([parameter.key for parameter in parameters])
    heads = [names[parameter.key] for parameter in parameters] + [sweep.metric.rpartition('/')[2]]
    heads = [_wrapped(head) for head in heads]
    axes.set_xticks(range(ends + 1), heads, fontsize=8.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.1, ends + 0.45)
    axes.set_ylim(-0.06, 1.06)
    for side in ('top', 'right', 'left', 'bottom'):
        axes.spines[side].set_visible(False)


def _place(parameter: Parameter, record: Record, trials: int) -> float:
    """Returns the position of a value on its axis, from 0 to 1; lines through one choice are spread a little."""
    value = record.settings[parameter.key]
    if isinstance(parameter, Choice):
        step = 1 / max(1, len(parameter.values) - 1)
        aside = SPREAD * step * (record.number / max(1, trials - 1) - 0.5)
        return min(1.03, max(-0.03, parameter.values.index(value) * step + aside))
    assert isinstance(parameter, Range)
    low, high = parameter.representatives()
    if parameter.log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return float((value - low) / (high - low))


def _ticks(parameter: Parameter) -> list[tuple[float, str]]:
    if isinstance(parameter, Choice):
        step = 1 / max(1, len(parameter.values) - 1)
        return [(i * step, _choice(value)) for i, value in enumerate(parameter.values)]
    assert isinstance(parameter, Range)
    low, high = parameter.representatives()
    if not parameter.log:
        places = _steps(parameter) if parameter.step is not None else [i / 4 for i in range(5)]
        values = [low + (high - low) * place for place in places]
        return [(place, _number(parameter, value)) for place, value in zip(places, values)]
    tens = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    span = math.log(high) - math.log(low)
    apart = [ten for ten in tens if min(math.log(ten / low), math.log(high / ten)) > 0.06 * span]
    return [((math.log(ten) - math.log(low)) / span, _number(parameter, ten)) for ten in (low, *apart, high)]


def _steps(parameter: Range) -> list[float]:
    """Returns the positions of some values of a range with steps, from 0 to 1, evenly spaced if possible."""
    low, high = parameter.representatives()
    assert parameter.step is not None
    count = round((high - low) / parameter.step)
    parts = next((parts for parts in (4, 5, 3) if count % parts == 0), 4)
    return sorted({round(i * count / parts) / count for i in range(parts + 1)})


def _number(parameter: Range, value: float) -> str:
    return label(round(value) if parameter.integer else value)


def _choice(value: Any) -> str:
    text = label(value)
    if len(text) > LONGEST and isinstance(value, dict) and 'name' in value:
        text = f'{value["name"]}(…)'
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 1]}…'


def _wrapped(head: str) -> str:
    parts = head.split('.')
    middle = (len(parts) + 1) // 2
    two = ('.'.join(parts[:middle]), '.'.join(parts[middle:]))
    return head if len(head) <= LONGEST_HEAD or len(parts) == 1 else '.\n'.join(two)


def _scale(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def importances(study: Study) -> dict[str, float]:
    """Estimates the share of the metric's variance that each parameter explains, by fANOVA with a random forest.

    Args:
        study: The study; only complete trials are used.

    Returns:
        The share of each parameter, the largest first, with the sum 1; empty if there are too few trials, or if all
        have the same settings or the same metric.
    """
    complete = [record for record in study.records() if record.state == 'complete']
    keys = [parameter.key for parameter in study.sweep.parameters]
    varied = [key for key in keys if len({str(record.settings.get(key)) for record in complete}) > 1]
    if len(complete) < FEW * len(varied) or not varied or len({record.value for record in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = optuna.importance.get_param_importances(study.handle, evaluator=evaluator, params=varied)
    return dict(sorted(found.items(), key=lambda item: -item[1]))
