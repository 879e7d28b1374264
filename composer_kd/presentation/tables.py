"""Tables that can be written as HTML, as Markdown, as CSV or to Weights & Biases."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer_kd.presentation.markdown import Markdown, markdown_text

__all__ = ['Cell', 'Column', 'Table', 'as_csv', 'as_markdown']


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        heading: Its heading.
        numeric: Whether it is aligned to the right.
        unit: The unit, a second line of the heading.
    """

    heading: str
    numeric: bool = True
    unit: str = ''

    @property
    def whole(self) -> str:
        """The heading with its unit, in one line."""
        return ', '.join(filter(None, (self.heading, self.unit)))


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: Its text; empty for an unknown value. ``Markdown`` is written to Markdown unchanged.
        note: A second line in small letters.
        role: The role of the model that it names, which determines its colour.
        wrong: Whether it is marked: a failure, or predictions that differ from the model's own.
        span: The number of columns it covers; the row has no cells for the others.
    """

    text: str
    note: str = ''
    role: str = ''
    wrong: bool = False
    span: int = 1

    @property
    def whole(self) -> str:
        """The mark, the text and the note in one line."""
        mark = '⚠ ' if self.wrong else ''
        return f'{mark}{self.text} ({self.note})' if self.note else f'{mark}{self.text}'


@dataclass
class Table:
    """A table.

    Args:
        columns: Its columns.
        rows: Its rows; the spans of the cells of each add up to the number of columns.
        caption: The text below it.
    """

    columns: list[Column]
    rows: list[list[Cell]] = field(default_factory=list)
    caption: str = ''

    @classmethod
    def of(cls, headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Table:
        """Builds a table from texts.

        Args:
            headings: A heading for each column.
            rows: The texts of each row, one for each column.
            left: The number of columns that are aligned to the left; the others are aligned to the right.

        Returns:
            The table, without a caption.
        """
        columns = [Column(heading, numeric=place >= left) for place, heading in enumerate(headings)]
        return cls(columns, [[Cell(text) for text in row] for row in rows])

    def without_empty(self) -> Table:
        """Returns the table without the columns whose cells are all empty."""
        kept = [i for i in range(len(self.columns)) if any(i < len(row) and row[i].text for row in self.rows)]
        rows = [_only(row, kept, len(self.columns)) for row in self.rows]
        return Table([self.columns[i] for i in kept], rows, self.caption)

    def filled(self) -> list[list[Cell]]:
        """Returns the rows with one cell for each column: a cell that covers several is followed by empty ones."""
        return [[part for cell in row for part in (cell, *[Cell('')] * (cell.span - 1))] for row in self.rows]


def _only(row: list[Cell], kept: list[int], columns: int) -> list[Cell]:
    """Returns the cells of the kept columns; a last cell that covers several covers those of them that are kept."""
    last = len(row) - 1
    cells = [row[i] for i in kept if i <= last]
    if last + 1 == columns or row[last].span == 1:
        return cells
    return [*cells[:-1], dataclasses.replace(row[last], span=sum(i >= last for i in kept))]


def as_markdown(table: Table, missing: str = '') -> str:
    """Writes a table in Markdown.

    Args:
        table: The table.
        missing: The text of empty cells.

    Returns:
        The table and its caption; ``''`` for a table without columns.

    Example:
        >>> print(as_markdown(Table.of(['model', 'size', 'speed'], [['a|b', '3 kB', '']]), missing='-'))
        | model | size | speed |
        |---|---:|---:|
        | a\\|b | 3 kB | - |
    """
    if not table.columns:
        return ''
    lines = [_line([column.whole for column in table.columns])]
    lines.append('|' + '|'.join('---:' if column.numeric else '---' for column in table.columns) + '|')
    lines += [_line([text for cell in row for text in _texts(cell, missing)]) for row in table.rows]
    return '\n'.join([*lines, *(['', markdown_text(table.caption)] if table.caption else [])])


def _texts(cell: Cell, missing: str) -> list[str]:
    """Returns the text of a cell in one line, and empty texts for the other columns that it covers."""
    whole = cell.whole
    if isinstance(cell.text, Markdown):
        whole = Markdown(dataclasses.replace(cell, note=markdown_text(cell.note)).whole)
    return [whole or missing, *[''] * (cell.span - 1)]


def _line(texts: Sequence[str]) -> str:
    # Markdown splits the row of a table at each | without a \ before it, even inside code.
    cells = [re.sub(r'(?<!\\)\|', r'\|', markdown_text(text)) for text in texts]
    return f'| {" | ".join(cells)} |'


def as_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Writes rows as CSV.

    Args:
        rows: For each row, its values by column; columns that it lacks are left empty.
        columns: The columns; by default all columns of the rows, in the order in which they first occur.

    Returns:
        The text, with ``\\n`` at the end of each line.

    Example:
        >>> as_csv([{'a': 1}, {'a': 2, 'b': None}])
        'a,b\\n1,\\n2,\\n'
    """
    stream = io.StringIO()
    names = columns if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(stream, names, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
