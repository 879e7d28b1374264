"""Draws accuracy against latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from composer_kd.bench.results import Setting
from composer_kd.presentation.plots import INK, MUTED, PAPER, Drawing, canvas, heading, tidy
from composer_kd.presentation.units import seconds_text
from composer_kd.reports.evidence import EvaluationSet
from composer_kd.reports.figures.colours import colours
from composer_kd.reports.groups import Group
from composer_kd.reports.metrics import pareto_front
from composer_kd.reports.speed import FAITHFUL, Speed, Timing, device_text

__all__ = ['draw_pareto']

_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')
_PANELS = 3
_LOW = ('bf16', 'fp16')
_POINT: dict[str, Any] = {'markersize': 7.5, 'markeredgewidth': 1.3, 'markerfacecoloralt': PAPER}


def draw_pareto(groups: Sequence[Group], evaluation: EvaluationSet, speed: Speed) -> Drawing | None:
    """Draws accuracy against latency in one panel for each device, with the Pareto front."""
    devices = [device for device in speed.devices if _points(speed, device, evaluation)][:_PANELS]
    if not devices:
        return None
    shown = [timing for device in devices for timing, *_ in _points(speed, device, evaluation)]
    backends = list(dict.fromkeys(timing.setting.backend for timing in shown))
    markers = {name: _MARKERS[index % len(_MARKERS)] for index, name in enumerate(backends)}
    with canvas(4.6 * len(devices) + 1.9, 4.1) as figure:
        panels = figure.subplots(1, len(devices), squeeze=False, sharey=True)[0]
        for axes, device in zip(panels, devices):
            _panel(axes, device, _points(speed, device, evaluation), markers, colours(groups))
        panels[0].set_ylabel('accuracy, %')
        _legend(figure, [one for one in groups if any(t.group is one for t in shown)], markers, colours(groups), shown)
    return Drawing(
        'pareto',
        'Accuracy against latency',
        'Up and to the left is better. The line is the Pareto front: no other model and backend is both as fast and as '
        'accurate as a point on it. Latency: median for a batch of one. Accuracy: the mean over seeds, and what the '
        f'backend changes in the runs that were timed. Hollow points answer more than {100 * (1 - FAITHFUL):.0f} % of '
        'the data otherwise than the model as trained, and are not on the front.',
        figure,
    )


def _points(speed: Speed, device: Setting, evaluation: EvaluationSet) -> list[tuple[Timing, float, float]]:
    found = []
    for timing in speed.on(device):
        accuracy = speed.accuracy(timing, evaluation)
        if accuracy is not None and timing.latency:
            found.append((timing, timing.latency, 100 * accuracy))
    return found


def _panel(
    axes: Any,
    device: Setting,
    points: Sequence[tuple[Timing, float, float]],
    markers: dict[str, str],
    colour: dict[str, str],
) -> None:
    kept = [one for one in points if one[0].is_faithful]
    front = [kept[i] for i in pareto_front([one[1] for one in kept], [one[2] for one in kept])]
    if front:
        axes.plot(
            [one[1] for one in front],
            [one[2] for one in front],
            color=INK,
            linewidth=1.2,
            alpha=0.55,
            drawstyle='steps-post',
            zorder=2,
        )
    for timing, latency, accuracy in points:
        looks = {'marker': markers[timing.setting.backend], 'color': colour[timing.group.name]}
        axes.plot([latency], [accuracy], linestyle='', zorder=3, **looks, **_fill(timing))
    _label(axes, front)
    axes.set_xscale('log')
    latencies = [one[1] for one in points]
    axes.set_xlim(min(latencies) / 1.5, max(latencies) * 1.5)
    _ticks(axes, min(latencies) / 1.5, max(latencies) * 1.5)
    heights = [one[2] for one in points]
    spare = max(1.0, 0.14 * (max(heights) - min(heights)))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, min(heights) - spare), max(high, max(heights) + spare))
    axes.set_xlabel('latency of one sample')
    heading(axes, device_text(device))
    tidy(axes, 'both')


def _fill(timing: Timing) -> dict[str, Any]:
    """Returns the style of a point: hollow if the timing is not faithful, half filled for a low precision."""
    fill = 'full' if timing.setting.precision not in _LOW else 'left'
    return {**_POINT, 'fillstyle': fill if timing.is_faithful else 'none'}


def _label(axes: Any, front: Sequence[tuple[Timing, float, float]]) -> None:
    """Labels the two ends of the front; more labels would overlap."""
    ends = front if len(front) < 2 else (front[0], front[-1])
    for index, (timing, latency, accuracy) in enumerate(ends):
        setting = timing.setting
        text = setting.backend if setting.precision == 'fp32' else f'{setting.backend}, {setting.precision}'
        looks: dict[str, Any] = {'textcoords': 'offset points', 'fontsize': 8.5, 'color': MUTED, 'zorder': 4}
        place, side = ((0, 8), 'center') if index else ((-5, -16), 'left')
        axes.annotate(text, (latency, accuracy), place, ha=side, **looks)


def _ticks(axes: Any, low: float, high: float) -> None:
    """Sets ticks at 1, 2 and 5 times the powers of ten; at the powers of ten only for a wide range."""
    steps = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    ticks = [step * 10.0**power for power in range(-9, 4) for step in steps]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _short(value: float) -> str:
    number, unit = seconds_text(value).split()
    return f'{float(number.replace(",", "")):g} {unit}'


def _legend(
    figure: Any, groups: Sequence[Group], markers: dict[str, str], colour: dict[str, str], shown: Sequence[Timing]
) -> None:
    handles = [_mark('o', one.name, color=colour[one.name]) for one in groups]
    handles += [_mark(marker, backend) for backend, marker in markers.items()] if len(markers) > 1 else []
    if any(timing.setting.precision in _LOW for timing in shown):
        low = dict.fromkeys(one.setting.precision for one in shown if one.setting.precision in _LOW)
        handles.append(_mark('o', f'in {" or ".join(low)}', fillstyle='left'))
    if any(not timing.is_faithful for timing in shown):
        handles.append(_mark('o', 'answers otherwise', fillstyle='none'))
    handles.append(Line2D([], [], color=INK, alpha=0.55, linewidth=1.2, label='Pareto front'))
    figure.legend(handles=handles, loc='outside right upper', frameon=False, fontsize=9, labelcolor=INK)


def _mark(marker: str, label: str, **looks: Any) -> Line2D:
    return Line2D([], [], marker=marker, linestyle='', label=label, **{**_POINT, 'color': MUTED, **looks})
