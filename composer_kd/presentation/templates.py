"""Renders the Jinja templates, which are stored next to the code that uses them."""

from __future__ import annotations

import functools
from typing import Any

import jinja2

from composer_kd.presentation.markdown import code, fenced, markdown_text
from composer_kd.presentation.tables import as_markdown
from composer_kd.presentation.units import number_text

__all__ = ['render']


def render(name: str, **values: Any) -> str:
    """Renders a template.

    Args:
        name: Its path relative to ``composer_kd/``. In ``*.html`` all values are escaped. In ``*.md.j2`` the filter
            ``md`` escapes text, ``table`` writes a table, ``code`` and ``fenced`` write code, ``number`` a number.
        **values: The values that the template uses; a missing one raises ``jinja2.UndefinedError``.

    Returns:
        The text.
    """
    return _environment().get_template(name).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('composer_kd', ''),
        autoescape=jinja2.select_autoescape(['html']),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(md=markdown_text, table=as_markdown, code=code, fenced=fenced, number=number_text)
    return environment
