"""Draws the speed-up of each backend and precision over the teacher in eager fp32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, NullLocator

from composer_kd.bench.results import Setting
from composer_kd.presentation.plots import INK, MUTED, PAPER, RED, Drawing, canvas, heading, tidy
from composer_kd.presentation.roles import ALONE
from composer_kd.presentation.units import percent, ratio_text, speed_text
from composer_kd.reports.figures.colours import colours
from composer_kd.reports.groups import Group
from composer_kd.reports.speed import FAITHFUL, Speed, Timing, device_text

__all__ = ['distinct', 'draw_speedups']

_PANELS = 3
_MOST_TICKS = 5


def draw_speedups(groups: Sequence[Group], speed: Speed) -> Drawing | None:
    """Draws a bar for each model, backend and precision, in one panel for each device."""
    shown = distinct(groups)
    devices = [device for device in speed.devices if any(speed.speed_up(one) for one in speed.on(device))][:_PANELS]
    ways = {device: _ways(speed, device, shown) for device in devices}
    if not devices or max(map(len, ways.values())) < 2:
        return None
    bars = max(map(len, ways.values())) * len(shown)
    with canvas(4.3 * len(devices) + 1.2, 1.5 + 0.24 * bars + 0.12 * max(map(len, ways.values()))) as figure:
        for axes, device in zip(figure.subplots(1, len(devices), squeeze=False)[0], devices):
            _panel(axes, device, ways[device], shown, speed, colours(groups))
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels()):
                handles.setdefault(label, handle)
        figure.legend(
            list(handles.values()),
            list(handles),
            loc='outside lower center',
            ncols=len(handles),
            frameon=False,
            fontsize=9,
        )
    alike = [one for one in groups if one not in shown]
    return Drawing(
        'speedups',
        'Speed-up by backend and precision',
        'How many times faster one sample is answered than by the teacher as it was trained (eager, fp32), on the same '
        'device; in brackets where the difference is within the noise. The axis is logarithmic. Striped bars have '
        f'an output match below {100 * FAITHFUL:.0f} %: they classify more of the evaluation data otherwise than the '
        'model as trained, and their speed is not worth much.'
        + (
            f' Not shown, since of the same size as a model that is: {", ".join(one.name for one in alike)}.'
            if alike
            else ''
        ),
        figure,
    )


def distinct(groups: Sequence[Group]) -> list[Group]:
    """Returns up to four groups, without students alone that have the size and operations of another model."""
    sizes = {(one.first.parameters, one.first.flops) for one in groups if one.role != ALONE}
    kept = [one for one in groups if one.role != ALONE or (one.first.parameters, one.first.flops) not in sizes]
    return kept[:4]


def _ways(speed: Speed, device: Setting, shown: Sequence[Group]) -> list[tuple[str, str]]:
    return list(
        dict.fromkeys((one.setting.backend, one.setting.precision) for one in speed.on(device) if one.group in shown)
    )


def _panel(
    axes: Any,
    device: Setting,
    ways: list[tuple[str, str]],
    shown: Sequence[Group],
    speed: Speed,
    colour: dict[str, str],
) -> None:
    height = 0.8 / len(shown)
    factors = [1.0]
    for index, each in enumerate(shown):
        for row, way in enumerate(ways):
            timing = speed.find(each, Setting(device.device, device.threads, *way))
            if timing is None:
                continue
            place, factor = row + (index - (len(shown) - 1) / 2) * height, speed.speed_up(timing)
            if factor is not None:
                factors.append(factor)
                _bar(axes, place, factor, height, timing, colour[each.name])
            text, is_wrong = _text(timing, factor, speed)
            looks = {'va': 'center', 'fontsize': 8, 'color': RED if is_wrong else MUTED}
            axes.annotate(text, (max(factor or 1.0, 1.0), place), (4, 0), textcoords='offset points', **looks)
        axes.barh([np.nan], [np.nan], color=colour[each.name], label=each.name)
    axes.axvline(1, color=INK, linewidth=0.9, zorder=3)
    _ratios(axes, min(factors), max(factors))
    axes.set_yticks(range(len(ways)), [f'{backend}\n{precision}' for backend, precision in ways], fontsize=8.5)
    axes.set_ylim(len(ways) - 0.45, -0.55)
    axes.set_xlabel('times as fast as the teacher, eager, fp32')
    heading(axes, device_text(device))
    tidy(axes, 'x')
    axes.tick_params(axis='y', length=0)


def _ratios(axes: Any, least: float, most: float) -> None:
    """Sets a logarithmic axis, on which 2x and 0.5x are equally far from 1, with room for text right of the bars."""
    low, high = math.log2(min(least, 0.8)), math.log2(max(most, 1.5))
    axes.set_xscale('log', base=2)
    axes.set_xlim(2 ** (low - 0.05 * (high - low)), 2 ** (high + 0.55 * (high - low)))
    powers = range(math.ceil(low), math.floor(high) + 1)
    step = next(step for step in range(1, len(powers) + 1) if sum(one % step == 0 for one in powers) <= _MOST_TICKS)
    axes.set_xticks([2.0**power for power in powers if power % step == 0])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: ratio_text(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def _bar(axes: Any, place: float, factor: float, height: float, timing: Timing, colour: str) -> None:
    looks = {'color': colour} if timing.is_faithful else {'facecolor': PAPER, 'edgecolor': colour, 'hatch': '////'}
    axes.barh(place, factor - 1, left=1, height=height * 0.86, zorder=2, **looks)


def _text(timing: Timing, factor: float | None, speed: Speed) -> tuple[str, bool]:
    if factor is None:
        return f'failed: {(timing.failed or "not timed")[:34]}', True
    if not timing.is_faithful:
        return f'{speed_text(factor)}, output match {percent(timing.output_match)} %', True
    is_known = speed.is_clear(timing) or speed.reference(timing) is timing
    return speed_text(factor) if is_known else f'({speed_text(factor)})', False
