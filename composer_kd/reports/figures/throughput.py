"""Draws samples per second over the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import FuncFormatter, NullLocator

from composer_kd.bench.results import Setting
from composer_kd.presentation.plots import MUTED, Drawing, canvas, heading, tidy
from composer_kd.presentation.units import count_text
from composer_kd.reports.figures.colours import colours
from composer_kd.reports.figures.speedups import distinct
from composer_kd.reports.groups import Group
from composer_kd.reports.speed import Speed, Timing, device_text

__all__ = ['draw_throughput']

_PANELS = 3
_TRAINED = ('eager', 'fp32')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')
_DASHES: tuple[Any, ...] = ((0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (8, 3)))


def draw_throughput(groups: Sequence[Group], speed: Speed) -> Drawing | None:
    """Draws throughput over the batch size in one panel for each device, up to the first batch size that failed."""
    shown = distinct(groups)
    swept = [one for one in speed.timings if one.group in shown and len(one.throughput) > 1]
    devices = [device for device in speed.devices if any(one in swept for one in speed.on(device))][:_PANELS]
    if not devices:
        return None
    looks = _looks(swept)
    with canvas(4.4 * len(devices) + 1.6, 3.9) as figure:
        for axes, device in zip(figure.subplots(1, len(devices), squeeze=False)[0], devices):
            _panel(axes, device, shown, speed, colours(groups), looks)
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels()):
                handles.setdefault(label, handle)
        place = {'loc': 'outside lower center', 'ncols': 2, 'frameon': False, 'fontsize': 9}
        figure.legend(list(handles.values()), list(handles), **place)
    return Drawing(
        'throughput',
        'Throughput over the batch size',
        'More is better. Solid: as the models were trained (eager, fp32); dashed: the fastest other backend with an '
        'output match of 99 % or more; each backend and precision has a marker of its own. A cross is the first batch '
        'size that failed, with the reason. Medians; both axes are logarithmic.',
        figure,
    )


def _short(value: float) -> str:
    number, *prefix = count_text(value).split()
    return ' '.join([f'{float(number.replace(",", "")):g}', *prefix])


def _looks(swept: Sequence[Timing]) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns the line style and marker of each backend and precision, distinct in all panels."""
    ways = dict.fromkeys((one.setting.backend, one.setting.precision) for one in swept)
    ways = dict.fromkeys(sorted(ways, key=_TRAINED.__ne__))
    return {
        way: {
            'linestyle': '-' if way == _TRAINED else _DASHES[index % len(_DASHES)],
            'marker': _MARKERS[index % len(_MARKERS)],
        }
        for index, way in enumerate(ways)
    }


def _panel(
    axes: Any,
    device: Setting,
    shown: Sequence[Group],
    speed: Speed,
    colour: dict[str, str],
    looks: dict[tuple[str, str], dict[str, Any]],
) -> None:
    for each in shown:
        mine = [one for one in speed.on(device) if one.group is each and len(one.throughput) > 1]
        trained = [one for one in mine if one.setting == device]
        others = [one for one in mine if one.setting != device and one.is_faithful]
        fastest = sorted(others, key=lambda one: max(value for _, value in one.throughput))[-1:]
        for timing in [*trained, *fastest]:
            _line(axes, timing, looks[timing.setting.backend, timing.setting.precision], colour[each.name])
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel('samples of a batch')
    axes.set_ylabel('samples per second')
    heading(axes, device_text(device))
    tidy(axes, 'both')


def _line(axes: Any, timing: Timing, looks: dict[str, Any], colour: str) -> None:
    sweep, setting = timing.throughput, timing.setting
    label = f'{timing.group.name}: {setting.backend}, {setting.precision}'
    axes.plot(*zip(*sweep), color=colour, linewidth=1.8, markersize=5, label=label, **looks)
    failed = [one for row in timing.rows for one in row.throughput if one.failed]
    if failed:
        first = min(failed, key=lambda one: one.batch)
        axes.scatter([first.batch], [sweep[-1][1]], marker='x', s=45, color=colour, linewidth=1.8, zorder=4)
        if looks['linestyle'] == '-':  # one of the two lines shows the reason
            where = (first.batch, sweep[-1][1])
            reason = str(first.failed)[:28]
            axes.annotate(reason, where, (0, 8), textcoords='offset points', ha='right', fontsize=8, color=MUTED)
