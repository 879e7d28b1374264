"""How the numbers of a row are written for people: one list of columns for the terminal and for Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from composer_kd.bench.results import Row, Setting

__all__ = ['COLUMNS', 'Column', 'by_setting', 'count', 'notes_of', 'percent', 'seconds', 'size']

NONE = '-'


@dataclass(frozen=True)
class Column:
    """One number of a row.

    Args:
        heading: Above it.
        cell: Writes it; of a row that has numbers.
        weight: Where a terminal is narrow, those with the least are left out first.
    """

    heading: str
    cell: Callable[[Row], str]
    weight: int = 0


def seconds(value: float | None) -> str:
    """Writes a time with a fitting unit.

    Example:
        >>> seconds(0.0000312), seconds(0.00124), seconds(2.5)
        ('31.2 µs', '1.24 ms', '2.50 s')
    """
    if value is None:
        return NONE
    for unit, factor in (('s', 1.0), ('ms', 1e3), ('µs', 1e6)):
        if value * factor >= 1 or unit == 'µs':
            return f'{_three_digits(value * factor)} {unit}'
    return NONE


def count(value: float | None) -> str:
    """Writes a large number with a prefix.

    Example:
        >>> count(950), count(21690), count(1.25e9)
        ('950', '21.7 k', '1.25 G')
    """
    if value is None:
        return NONE
    for prefix, factor in (('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3)):
        if value >= factor:
            return f'{_three_digits(value / factor)} {prefix}'
    return f'{value:.0f}'


def size(value: float | None) -> str:
    """Writes a number of bytes.

    Example:
        >>> size(91_000), size(4.2e6)
        ('91.0 kB', '4.20 MB')
    """
    return NONE if value is None else f'{count(value)}B' if value >= 1e3 else f'{value:.0f} B'


def percent(value: float | None) -> str:
    """Writes a share.

    Example:
        >>> percent(0.986), percent(1.0), percent(None)
        ('98.6', '100', '-')
    """
    return NONE if value is None else '100' if value == 1 else f'{100 * value:.1f}'


def _three_digits(value: float) -> str:
    return f'{value:,.0f}' if value >= 99.95 else f'{value:.1f}' if value >= 9.995 else f'{value:.2f}'


def _latency(row: Row) -> str:
    return NONE if row.latency is None else f'{seconds(row.latency.p50)} ± {seconds(row.latency.iqr)}'


def _speed_up(row: Row) -> str:
    ratio = row.speed_up
    return NONE if ratio is None else f'{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]'


def _throughput(row: Row) -> str:
    best = row.best_throughput
    return NONE if best is None else f'{count(best.samples_per_second)} ± {count(best.iqr)}'


def _batch(row: Row) -> str:
    best = row.best_throughput
    return NONE if best is None else str(best.batch)


def _energy(row: Row) -> str:
    return NONE if row.energy_joules is None else f'{1e3 * row.energy_joules:.3g}'


COLUMNS = (
    Column('latency p50 ± IQR', _latency, weight=9),
    Column('p90', lambda row: NONE if row.latency is None else seconds(row.latency.p90)),
    Column('p99', lambda row: NONE if row.latency is None else seconds(row.latency.p99), weight=2),
    Column('speed-up', _speed_up, weight=7),
    Column('samples/s ± IQR', _throughput, weight=8),
    Column('at batch', _batch, weight=3),
    Column('peak', lambda row: size(row.peak_memory_bytes), weight=5),
    Column('mJ/sample', _energy, weight=5),
    Column('file', lambda row: size(row.file_bytes), weight=6),
    Column('load', lambda row: seconds(row.load_seconds)),
    Column('accuracy', lambda row: percent(row.accuracy), weight=9),
    Column('agreement', lambda row: percent(row.agreement), weight=4),
    Column('output match', lambda row: percent(row.output_match), weight=9),
)
"""All columns beside the model's name."""


def by_setting(rows: Iterable[Row]) -> list[tuple[Setting, list[Row]]]:
    """Puts together the rows of one setting, in their order."""
    return [(setting, list(group)) for setting, group in itertools.groupby(rows, key=lambda row: row.setting)]


def notes_of(rows: Sequence[Row]) -> list[str]:
    """What is to be said below the rows of a setting: why some have no numbers, where sweeps ended, the notes."""
    found: dict[str, list[str]] = {}
    for row in rows:
        said = [f'failed: {row.failed}'] if row.failed is not None else []
        said += [f'batch {one.batch}: {one.failed}' for one in row.throughput if one.failed is not None]
        for one in [*said, *row.notes]:
            found.setdefault(one, []).append(row.model)
    return [
        f'{", ".join(models) if len(models) < max(2, len(rows)) else "all"}: {one}' for one, models in found.items()
    ]
