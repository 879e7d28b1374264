"""Tables that a page, a Markdown file and Weights & Biases show alike."""

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
    """One column.

    Args:
        heading: Its heading.
        numeric: Whether it is set to the right.
        unit: A second line of the heading.
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
    """One cell.

    Args:
        text: What it says; empty for what is not known. ``Markdown`` is written to Markdown as it is.
        note: A second line, small.
        role: The role of the model that it names, for its colour.
        wrong: Whether it must be marked: a failure, or an answer that is not the model's.
        span: How many columns it takes; cells that follow must be left out.
    """

    text: str
    note: str = ''
    role: str = ''
    wrong: bool = False
    span: int = 1

    @property
    def whole(self) -> str:
        """Everything in one line."""
        mark = '⚠ ' if self.wrong else ''
        return f'{mark}{self.text} ({self.note})' if self.note else f'{mark}{self.text}'


@dataclass
class Table:
    """A table.

    Args:
        columns: Its columns.
        rows: Its rows, with as many cells.
        caption: What it shows, below it.
    """

    columns: list[Column]
    rows: list[list[Cell]] = field(default_factory=list)
    caption: str = ''

    @classmethod
    def of(cls, headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Table:
        """Makes a table of texts.

        Args:
            headings: A heading for each column.
            rows: Texts, as many in each row.
            left: So many columns are set to the left, the others to the right.
        """
        columns = [Column(heading, numeric=place >= left) for place, heading in enumerate(headings)]
        return cls(columns, [[Cell(text) for text in row] for row in rows])

    def without_empty(self) -> Table:
        """Leaves out columns of which nothing is known."""
        kept = [i for i in range(len(self.columns)) if any(i < len(row) and row[i].text for row in self.rows)]
        rows = [_only(row, kept, len(self.columns)) for row in self.rows]
        return Table([self.columns[i] for i in kept], rows, self.caption)

    def filled(self) -> list[list[Cell]]:
        """The rows with as many cells as columns: empty ones where one takes several."""
        return [[part for cell in row for part in (cell, *[Cell('')] * (cell.span - 1))] for row in self.rows]


def _only(row: list[Cell], kept: list[int], columns: int) -> list[Cell]:
    """The cells of some columns; the last cell of a short row takes what is left."""
    last = len(row) - 1
    cells = [row[i] for i in kept if i <= last]
    if last + 1 == columns or row[last].span == 1:
        return cells
    return [*cells[:-1], dataclasses.replace(row[last], span=sum(i >= last for i in kept))]


def as_markdown(table: Table, missing: str = '') -> str:
    """Writes a table in Markdown.

    Args:
        table: The table.
        missing: What stands in cells of which nothing is known.

    Returns:
        The table and its caption; ``''`` without columns.

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
    """A cell in one line, and the empty ones beside it that it reaches over."""
    whole = cell.text if isinstance(cell.text, Markdown) and not cell.note and not cell.wrong else cell.whole
    return [whole or missing, *[''] * (cell.span - 1)]


def _line(texts: Sequence[str]) -> str:
    # In a table the line is cut at each | that has no \ before it, in code too.
    cells = [re.sub(r'(?<!\\)\|', r'\|', markdown_text(text)) for text in texts]
    return f'| {" | ".join(cells)} |'


def as_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Writes rows in CSV; what a row lacks stays empty.

    Args:
        rows: Values by column.
        columns: The columns; by default all that there are, in the order of the rows.

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
