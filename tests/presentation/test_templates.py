"""Templates are strict, and escape what a page must."""

from __future__ import annotations

import pathlib

import jinja2
import pytest

import composer_kd
from composer_kd.deploy.card import Card
from composer_kd.presentation.templates import render

ROOT = pathlib.Path(composer_kd.__file__).parent


def test_a_value_that_is_not_there_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        render('deploy/card.md.j2')


def test_markdown_is_written_as_it_is():
    card = Card('a & b', 'It is <i>small</i>.', 'onnx', sections=[('Use', '\n`x < y`\n\n'), ('Empty', ' \n')])
    assert card.markdown().endswith('---\n\n# a & b\n\nIt is <i>small</i>.\n\n## Use\n\n`x < y`\n')
