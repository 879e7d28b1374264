"""Draws accuracy against latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from composer_kd.bench.results import Setting
from composer_kd.presentation.plots import INK, MUTED, PAPER, Drawing, canvas, heading, tidy
from composer_kd.presentation.units import seconds_text
from composer_kd.reports.evidence import EvaluationSet
from composer_kd.reports.figures.colours import colours
from composer_kd.reports.groups import Group, gain
from composer_kd.reports.metrics import clear_front
from composer_kd.reports.speed import FAITHFUL, Speed, Timing, device_text

__all__ = ['draw_pareto']

_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')
_PANELS = 3
_LOW = ('bf16', 'fp16')
_PLACES = tuple(
    ((x, y), side)
    for y in (9, -16, 20, -27, 31, -38, 42, -49)
    for x, side in ((0, 'center'), (-4, 'left'), (4, 'right'))
)
_Point = tuple[Timing, float, float]
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
            _panel(axes, device, _points(speed, device, evaluation), evaluation, markers, colours(groups))
        for axes in panels:  # each has its labels, since a narrow page shows them one by one
            axes.set_ylabel('accuracy, %')
            axes.tick_params(labelleft=True)
        _legend(figure, [one for one in groups if any(t.group is one for t in shown)], markers, colours(groups), shown)
        figure.draw_without_rendering()  # places the points, around which the labels find room
        for axes, device in zip(panels, devices):
            points = _points(speed, device, evaluation)
            _label(axes, _front(points, evaluation), points)
    return Drawing(
        'pareto',
        'Accuracy against latency',
        'Up and to the left is better. The line is the Pareto front: no other model and backend is clearly better than '
        'a labelled point in one of the two and as good in the other; differences within the noise (the interquartile '
        'range of the latency, the 95 % interval of the accuracy) do not count. '
        'Latency: median for a batch of one. Accuracy: the mean over seeds, and what the '
        f'backend changes in the runs that were timed. Hollow points have an output match below {100 * FAITHFUL:.0f} '
        '% and are not on the front.',
        figure,
    )


def _points(speed: Speed, device: Setting, evaluation: EvaluationSet) -> list[_Point]:
    found = []
    for timing in speed.on(device):
        accuracy = speed.accuracy(timing, evaluation)
        if accuracy is not None and timing.latency:
            found.append((timing, timing.latency, 100 * accuracy))
    return found


def _panel(
    axes: Any,
    device: Setting,
    points: Sequence[_Point],
    evaluation: EvaluationSet,
    markers: dict[str, str],
    colour: dict[str, str],
) -> None:
    front = _front(points, evaluation)
    if front:
        axes.plot(
            [one[1] for one in front],
            np.maximum.accumulate([one[2] for one in front]),
            color=INK,
            linewidth=1.2,
            alpha=0.55,
            drawstyle='steps-post',
            zorder=2,
        )
    for timing, latency, accuracy in points:
        looks = {'marker': markers[timing.setting.backend], 'color': colour[timing.group.name]}
        axes.plot([latency], [accuracy], linestyle='', zorder=3, **looks, **_fill(timing))
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


def _front(points: Sequence[_Point], evaluation: EvaluationSet) -> list[_Point]:
    """Returns the points that no other clearly beats, by rising latency."""
    kept = [one for one in points if one[0].is_faithful]

    def noise(one: int, other: int) -> tuple[float, float]:
        first, second = kept[one][0], kept[other][0]
        return max(first.noise, second.noise), _noise_of_accuracy(first, second, evaluation)

    return [kept[i] for i in clear_front([one[1] for one in kept], [one[2] for one in kept], noise)]


def _noise_of_accuracy(one: Timing, other: Timing, evaluation: EvaluationSet) -> float:
    """Returns half the 95 % interval of the difference of two accuracies, in points."""
    if one.group is not other.group:
        found = gain(one.group, other.group, evaluation)
        return 0.0 if found is None else 50 * (found.high - found.low)
    samples = len(evaluation.labels)
    otherwise = sum(1 - (timing.output_match or 1.0) for timing in (one, other))
    return 100 * 1.96 * math.sqrt(otherwise / samples) if samples else 0.0


def _label(axes: Any, front: Sequence[_Point], points: Sequence[_Point]) -> None:
    """Labels each point of the front where its text hides no point and no other label."""
    renderer = axes.figure.canvas.get_renderer()
    around = 0.08 * axes.figure.dpi  # half the size of a point
    spots = [axes.transData.transform(one[1:]) for one in points]
    taken = [Bbox.from_bounds(x - around, y - around, 2 * around, 2 * around) for x, y in spots]
    for timing, latency, accuracy in front:
        setting = timing.setting
        text = setting.backend if setting.precision == 'fp32' else f'{setting.backend}, {setting.precision}'
        looks: dict[str, Any] = {'textcoords': 'offset points', 'fontsize': 8.5, 'color': MUTED, 'zorder': 4}
        note = axes.annotate(text, (latency, accuracy), (0, 0), **looks)
        note.set_in_layout(False)
        for offset, side in _PLACES:
            note.set_position(offset)
            note.set_horizontalalignment(side)
            box = note.get_window_extent(renderer)
            if axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1) and not box.count_overlaps(taken):
                break
        taken.append(box)


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
        handles.append(_mark('o', f'output match below {100 * FAITHFUL:.0f} %', fillstyle='none'))
    handles.append(Line2D([], [], color=INK, alpha=0.55, linewidth=1.2, label='Pareto front'))
    figure.legend(handles=handles, loc='outside right upper', frameon=False, fontsize=9, labelcolor=INK)


def _mark(marker: str, label: str, **looks: Any) -> Line2D:
    return Line2D([], [], marker=marker, linestyle='', label=label, **{**_POINT, 'color': MUTED, **looks})
