"""The results as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from composer_kd.bench.columns import COLUMNS, MISSING, Column, notes_of
from composer_kd.bench.results import BenchResults, Row
from composer_kd.bench.text_tables import columns_of_texts
from composer_kd.presentation.units import number_text, percent, seconds_text

__all__ = ['FAITHFUL', 'block', 'summary', 'quickest', 'most']

FAITHFUL = 0.99
"""The lowest output match with which the summary proposes a setting."""
WIDE = 180
GAP = 3


def block(rows: Sequence[Row], width: int = WIDE) -> RenderableType:
    """Builds the table of one setting.

    Args:
        rows: The rows of the setting.
        width: The width of the terminal; a narrow one shows fewer columns (``bench.md`` has all).

    Returns:
        The table and its notes, for ``rich``.
    """
    tables = [_table(rows, COLUMNS, width)]
    texts = columns_of_texts(rows)
    if texts:
        tables.append(_table([row for row in rows if row.failed is None], texts, width))
    notes = [Text(f'  {note}', style='dim') for note in notes_of(rows)]
    return Group(Text(str(rows[0].setting), style='bold'), *tables, *notes, Text(''))


def _table(rows: Sequence[Row], wanted: Sequence[Column], width: int) -> Table:
    columns = _fitting(rows, wanted, width)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column('model', no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify='right', no_wrap=True)
    for row in rows:
        cells = ['failed', *[''] * (len(columns) - 1)] if row.failed else [_cell(column, row) for column in columns]
        table.add_row(row.model, *cells, style='red' if row.failed else None)
    return table


def _cell(column: Column, row: Row) -> str:
    return column.cell(row) or MISSING


def _fitting(rows: Sequence[Row], wanted: Sequence[Column], width: int) -> list[Column]:
    """The columns that have values and fit into the width."""
    done = [row for row in rows if row.failed is None]
    cells = {column: [_cell(column, row) for row in done] for column in wanted}
    kept = [column for column in wanted if any(cell != MISSING for cell in cells[column])] or list(wanted[:1])

    def taken() -> int:
        widths = [max(map(len, [column.heading, *cells[column]])) for column in kept]
        return max(len(row.model) for row in rows) + sum(GAP + one for one in widths)

    while taken() > width and len(kept) > 1:
        kept.remove(min(kept, key=lambda column: column.weight))
    return kept


def summary(results: BenchResults) -> RenderableType:
    """Builds the table of the best settings of each model on each device.

    Args:
        results: The results of the benchmark.

    Returns:
        The table, for ``rich``.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column('model', no_wrap=True)
    writes = any(one.token_seconds is not None for row in results.rows for one in row.generation)
    headings = ['parameters', 'accuracy, %', 'latency', 'quickest in', 'samples/s', 'most in']
    for heading in [*headings, *(['next token', 'written in'] if writes else [])]:
        table.add_column(heading, justify='left' if heading.endswith(' in') else 'right')
    for device in dict.fromkeys(row.setting.device for row in results.rows):
        rows = [row for row in results.rows if row.setting.device == device]
        for model in dict.fromkeys(row.model for row in rows):
            mine = [row for row in rows if row.model == model]
            cells = [*_best(mine), *(_written(mine) if writes else [])]
            table.add_row(*(cell or MISSING for cell in cells))
    title = Text('The best way of each model, of those with an output match of 99 % or more', style='bold')
    return Group(title, table)


def _best(rows: Sequence[Row]) -> list[str]:
    quick, many = quickest(rows), most(rows)
    first = rows[0]
    latency = None if quick is None or quick.latency is None else quick.latency.p50
    best = None if many is None else many.best_throughput
    shown = quick or many
    return [
        first.model,
        number_text(first.parameters),
        percent(None if shown is None else shown.accuracy),
        seconds_text(latency),
        _how(quick),
        number_text(None if best is None else best.samples_per_second),
        _how(many),
    ]


def _written(rows: Sequence[Row]) -> list[str]:
    """The shortest time from one new token to the next, and where."""
    timed = [(one.token_seconds, row) for row in _faithful(rows) for one in row.generation if one.token_seconds]
    if not timed:
        return ['', '']
    seconds, row = min(timed, key=lambda pair: pair[0])
    return [seconds_text(seconds), _how(row)]


def _how(row: Row | None) -> str:
    if row is None:
        return ''
    setting = row.setting
    where = setting.device if setting.threads is None else f'{setting.threads} thread{"s" * (setting.threads > 1)}'
    return f'{setting.backend} {setting.precision}, {where}'


def quickest(rows: Sequence[Row]) -> Row | None:
    """The row with the lowest latency among a model's rows with a sufficient output match, if there is one."""
    timed = [row for row in _faithful(rows) if row.latency is not None]
    return min(timed, key=lambda row: row.latency.p50 if row.latency else 0.0, default=None)


def most(rows: Sequence[Row]) -> Row | None:
    """The row with the most samples per second among a model's rows with a sufficient output match, if there is one."""
    timed = [row for row in _faithful(rows) if row.best_throughput is not None]
    return max(timed, key=_samples_per_second, default=None)


def _samples_per_second(row: Row) -> float:
    best = row.best_throughput
    return 0.0 if best is None else best.samples_per_second or 0.0


def _faithful(rows: Sequence[Row]) -> list[Row]:
    """The rows with a sufficient output match; all rows if none has one, which means that the model has no classes."""
    if all(row.output_match is None for row in rows):
        return list(rows)
    return [row for row in rows if row.output_match is not None and row.output_match >= FAITHFUL]
