"""The columns of the result tables, in the terminal and in Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from composer_kd.bench.results import Row, Setting
from composer_kd.presentation.units import TIMES, bytes_text, count_text, number_text, percent, seconds_text

__all__ = ['COLUMNS', 'MISSING', 'Column', 'by_setting', 'cell_text', 'notes_of']

MISSING = '-'
"""The text of a cell without a value."""


@dataclass(frozen=True)
class Column:
    """A column of a result table.

    Args:
        heading: The heading.
        cell: Formats the value of a row that has not failed; returns ``''`` if the value is missing.
        weight: The priority: a narrow terminal drops the columns of lowest weight first.
    """

    heading: str
    cell: Callable[[Row], str]
    weight: int = 0


def _latency(row: Row) -> str:
    return '' if row.latency is None else f'{seconds_text(row.latency.p50)} ± {seconds_text(row.latency.iqr)}'


def _speed_up(row: Row) -> str:
    ratio = row.speed_up
    if ratio is None:
        return ''
    return f'{number_text(ratio.median)} ({number_text(ratio.low)} to {number_text(ratio.high)})'


def _throughput(row: Row) -> str:
    best = row.best_throughput
    return '' if best is None else number_text(best.samples_per_second, best.iqr)


def _tokens(row: Row) -> str:
    best = row.best_throughput
    return '' if best is None else count_text(best.tokens_per_second)


def _batch(row: Row) -> str:
    best = row.best_throughput
    return '' if best is None else str(best.batch)


COLUMNS = (
    Column('latency p50 ± IQR', _latency, weight=9),
    Column('p90', lambda row: '' if row.latency is None else seconds_text(row.latency.p90)),
    Column('p99', lambda row: '' if row.latency is None else seconds_text(row.latency.p99), weight=2),
    Column('speed-up', _speed_up, weight=7),
    Column('samples/s ± IQR', _throughput, weight=8),
    Column('tokens/s', _tokens, weight=6),
    Column('at batch', _batch, weight=3),
    Column('peak memory', lambda row: bytes_text(row.peak_memory_bytes), weight=5),
    Column('energy/sample', lambda row: count_text(row.energy_joules, 'J'), weight=5),
    Column('file', lambda row: bytes_text(row.file_bytes), weight=6),
    Column('load', lambda row: seconds_text(row.load_seconds)),
    Column('accuracy, %', lambda row: percent(row.accuracy), weight=9),
    Column('agreement, %', lambda row: percent(row.agreement), weight=4),
    Column('output match, %', lambda row: percent(row.output_match), weight=9),
)
"""All columns except the model's name."""


def by_setting(rows: Iterable[Row]) -> list[tuple[Setting, list[Row]]]:
    """Groups the rows of each setting, in their order."""
    return [(setting, list(group)) for setting, group in itertools.groupby(rows, key=lambda row: row.setting)]


def notes_of(rows: Sequence[Row]) -> list[str]:
    """The notes below the table of a setting: reasons of failures, also at single batch sizes, and remarks on rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        said = [f'failed: {row.failed}'] if row.failed is not None else []
        said += [f'batch {one.batch}: {one.failed}' for one in row.throughput if one.failed is not None]
        for one in [*said, *row.notes, *_of_padding(row), *_of_cells(row)]:
            found.setdefault(one, []).append(row.model)
    return [
        f'{", ".join(models) if len(models) < max(2, len(rows)) else "all"}: {one}' for one, models in found.items()
    ]


def _of_padding(row: Row) -> list[str]:
    """How much of the texts of the evaluation data, as they are timed, is padding."""
    first = next((one for one in row.throughput if one.tokens is not None and one.positions), None)
    best = row.best_throughput or first
    if best is None or best.tokens is None or not best.positions or best.tokens == best.positions:
        return []
    return [
        f'texts of the data: {best.positions} positions, of which {best.tokens:.3g} are attended in the mean at batch '
        f'{best.batch}; tokens/s counts these'
    ]


def _of_cells(row: Row) -> list[str]:
    """Why single lengths and batch sizes of a row have no number, one note for each reason."""
    found: dict[str, list[str]] = {}
    for text in row.texts:
        if text.failed is not None:
            found.setdefault(text.failed, []).append(cell_text(text.length, text.batch))
    for one in row.generation:
        if one.failed is not None:
            found.setdefault(one.failed, []).append(f'prompt {cell_text(one.prompt, one.batch)}')
    return [f'{", ".join(cells)}: {failed}' for failed, cells in found.items()]


def cell_text(length: int, batch: int) -> str:
    """A length and a batch size, as a text."""
    return f'{length} {TIMES} {batch}'
