"""Tables that a page, a Markdown file and Weights & Biases show alike."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

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
        text: What it says; empty for what is not known.
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


def as_markdown(table: Table) -> str:
    """Writes a table in Markdown.

    Example:
        >>> print(as_markdown(Table([Column('model', numeric=False), Column('size')], [[Cell('a|b'), Cell('3 kB')]])))
        | model | size |
        |---|---:|
        | a\\|b | 3 kB |
    """
    lines = [_line([column.whole for column in table.columns])]
    lines.append('|' + '|'.join('---:' if column.numeric else '---' for column in table.columns) + '|')
    lines += [_line([cell.whole for cell in row]) for row in table.filled()]
    return '\n'.join([*lines, *(['', markdown_text(table.caption)] if table.caption else [])])


def _line(texts: Sequence[str]) -> str:
    return '| ' + ' | '.join(markdown_text(text) for text in texts) + ' |'


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is.

    Example:
        >>> markdown_text('<b>*a*|b_c')
        '&lt;b&gt;\\\\*a\\\\*\\\\|b\\\\_c'
    """
    text = ' '.join(text.split()).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    for sign in '\\`*_|[]':
        text = text.replace(sign, '\\' + sign)
    return text


def as_csv(rows: Sequence[dict[str, object]]) -> str:
    """Writes rows in CSV; what a row lacks stays empty.

    Example:
        >>> as_csv([{'a': 1}, {'a': 2, 'b': None}])
        'a,b\\n1,\\n2,\\n'
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
