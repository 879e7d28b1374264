"""One writer of tables."""

from __future__ import annotations

import pathlib
import re

from hypothesis import given
from hypothesis import strategies as st

import composer_kd
from composer_kd.presentation.markdown import Markdown, bold, code
from composer_kd.presentation.tables import Cell, Column, Table, as_csv, as_markdown


def test_columns_of_which_nothing_is_known_are_left_out():
    assert as_markdown(Table.of(['', 'value'], []).without_empty()) == ''
    table = Table.of(['', 'a', 'b'], [['x|y', '', '2']]).without_empty()
    assert as_markdown(table) == '|  | b |\n|---|---:|\n| x\\|y | 2 |'


def test_what_is_not_known_is_marked_where_one_asks_for_it():
    table = Table([Column('a', numeric=False), Column('b'), Column('c')], [[Cell(''), Cell('x', span=2)]])
    assert as_markdown(table, '-').splitlines()[-1] == '| - | x |  |'
    assert as_markdown(table).splitlines()[-1] == '|  | x |  |'


@given(st.lists(st.text(st.characters(codec='utf-8', exclude_categories=['C', 'Z'])), min_size=2, max_size=2))
def test_no_text_makes_another_cell(texts):
    written = [*texts, code(texts[0].replace('`', '')), bold(texts[1])]
    line = as_markdown(Table.of(['a', 'b', 'c', 'd'], [written])).splitlines()[-1]
    # The ends of cells: those | before which there is an even number of backslashes.
    assert len(re.findall(r'(?<!\\)(?:\\\\)*\|', line)) == 5


def test_markdown_stays_markdown():
    cells = [code('a|b'), bold('a_b'), Markdown('[a](b)'), 'a_b']
    line = as_markdown(Table.of(['1', '2', '3', '4'], [cells])).splitlines()[-1]
    assert line == r'| `a\|b` | **a\_b** | [a](b) | a\_b |'


def test_no_other_file_of_the_package_writes_tables():
    root = pathlib.Path(composer_kd.__file__).parent
    writers = [file for file in root.rglob('*.py') if re.search(r'\|\s*-{2,}', file.read_text(encoding='utf-8'))]
    assert [file.relative_to(root).as_posix() for file in writers] == ['presentation/tables.py']


def test_csv_has_the_columns_that_are_asked_for():
    assert as_csv([{'b': 1}], ['a', 'b']) == 'a,b\n,1\n'
    assert as_csv([], ['a', 'b']) == 'a,b\n'
