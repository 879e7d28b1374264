"""Draws the speed of models of texts: tokens per second over the length, and writing over the length of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.ticker import FuncFormatter, NullLocator

from composer_kd.bench.results import Setting
from composer_kd.presentation.plots import Drawing, canvas, heading, tidy
from composer_kd.presentation.units import count_text, seconds_text
from composer_kd.reports.figures.colours import colours
from composer_kd.reports.figures.speedups import distinct
from composer_kd.reports.groups import Group
from composer_kd.reports.speed import Speed, Timing, device_text
from composer_kd.reports.texts import generation_of, texts_of
from composer_kd.reports.token_losses import perplexity

__all__ = ['draw_texts']

_Points = list[tuple[float, float]]


def draw_texts(groups: Sequence[Group], speed: Speed) -> Drawing | None:
    """Draws reading, writing, and perplexity against writing, on the device that has most of them."""
    shown = distinct(groups)
    panels = [panel for device in speed.devices for panel in _panels(device, shown, speed)]
    if not panels:
        return None
    panels = panels[:3]
    with canvas(4.2 * len(panels) + 1.2, 3.9) as figure:
        for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            draw(axes, colours(groups))
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels()):
                handles.setdefault(label, handle)
        place = {'loc': 'outside lower center', 'ncols': 4, 'frameon': False, 'fontsize': 9}
        figure.legend(list(handles.values()), list(handles), **place)
    return Drawing(
        'texts',
        'Reading and writing texts',
        'As the models were trained (eager, fp32). Reading: tokens per second of texts of one length without padding, '
        'in the best batch size; more is better. Writing: the time from one new token to the next in the smallest '
        'batch, with the cache of keys and values; less is better. Perplexity against that time: down and to the left '
        'is better.',
        figure,
    )


def _panels(device: Setting, shown: Sequence[Group], speed: Speed) -> list[Callable[[Any, dict[str, str]], None]]:
    timings = [one for each in shown if (one := speed.find(each, device)) is not None]
    reading = {one.group.name: points for one in timings if (points := _reading(one))}
    writing = {one.group.name: points for one in timings if (points := _writing(one))}
    weighed = {
        one.group.name: [(points[-1][1], value)]
        for one in timings
        if (points := _writing(one)) and (value := perplexity(one.group)) is not None
    }
    where = device_text(device)
    found: list[Callable[[Any, dict[str, str]], None]] = []
    if reading:
        labels = ('tokens of a text', 'tokens per second', f'Reading: {where}')
        found.append(lambda axes, colour: _lines(axes, reading, colour, labels, _number, _count, '-'))
    if writing:
        named = ('tokens of the prompt', 'time per new token', f'Writing: {where}')
        found.append(lambda axes, colour: _lines(axes, writing, colour, named, _number, _seconds, '-'))
    if len(weighed) > 1:
        both = ('time per new token', 'perplexity', f'Perplexity against speed: {where}')
        found.append(lambda axes, colour: _lines(axes, weighed, colour, both, _seconds, _count, ''))
    return found


def _reading(timing: Timing) -> _Points:
    best: dict[int, float] = {}
    for one in texts_of(timing):
        if one.tokens_per_second is not None:
            best[one.length] = max(best.get(one.length, 0.0), one.tokens_per_second)
    return [(float(length), rate) for length, rate in sorted(best.items())]


def _writing(timing: Timing) -> _Points:
    done = [one for one in generation_of(timing) if one.token_seconds is not None]
    least = min((one.batch for one in done), default=0)
    return sorted((float(one.prompt), one.token_seconds or 0.0) for one in done if one.batch == least)


def _lines(
    axes: Any,
    points: dict[str, _Points],
    colour: dict[str, str],
    labels: tuple[str, str, str],
    across: Callable[[float], str],
    up: Callable[[float], str],
    style: str,
) -> None:
    for name, values in points.items():
        axes.plot(*zip(*values), style, color=colour[name], linewidth=1.8, marker='o', markersize=5, label=name)
    places = sorted({x for values in points.values() for x, _ in values})
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    for axis, text in ((axes.xaxis, across), (axes.yaxis, up)):
        axis.set_major_formatter(FuncFormatter(lambda value, _, text=text: text(value)))
        axis.set_minor_locator(NullLocator())
    axes.set_xticks(places if len(places) < 6 else places[:: len(places) // 4])
    _steps(axes, [y for values in points.values() for _, y in values])
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    heading(axes, labels[2])
    tidy(axes, 'both')


def _steps(axes: Any, values: Sequence[float]) -> None:
    """Sets ticks at 1, 2 and 5 times the powers of ten, and room around the values."""
    low, high = 0.7 * min(values), 1.4 * max(values)
    axes.set_ylim(low, high)
    steps = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
    axes.set_yticks([one for power in range(-9, 12) for step in steps if low <= (one := step * 10.0**power) <= high])


def _number(value: float) -> str:
    return f'{value:,.0f}'


def _count(value: float) -> str:
    number, *prefix = count_text(value).split()
    return ' '.join([f'{float(number.replace(",", "")):g}', *prefix])


def _seconds(value: float) -> str:
    number, unit = seconds_text(value).split()
    return f'{float(number.replace(",", "")):.3g} {unit}'
