"""Text in Markdown."""

from __future__ import annotations

import re

__all__ = ['Markdown', 'bold', 'code', 'fenced', 'markdown_text']


class Markdown(str):
    """Text that is Markdown already: it is written as it is, where other text has its signs escaped.

    Example:
        >>> markdown_text('*a*'), markdown_text(Markdown('*a*'))
        ('\\\\*a\\\\*', '*a*')
    """

    __slots__ = ()


def markdown_text(text: str) -> Markdown:
    """Text that Markdown shows as it is, in one line.

    Example:
        >>> markdown_text('<b>*a*|b_c')
        '&lt;b&gt;\\\\*a\\\\*\\\\|b\\\\_c'
    """
    if isinstance(text, Markdown):
        return text
    text = ' '.join(text.split()).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    return Markdown(re.sub(r'([\\`*_|\[\]])', r'\\\1', text))


def bold(text: str) -> Markdown:
    """Text in bold letters.

    Example:
        >>> bold('a*b')
        '**a\\\\*b**'
    """
    return Markdown(f'**{markdown_text(text)}**')


def code(text: str) -> Markdown:
    """Text as code in a line.

    Example:
        >>> code('a_b')
        '`a_b`'
    """
    return Markdown(f'`{text}`')


def fenced(text: str, language: str) -> Markdown:
    """A block of code.

    Example:
        >>> fenced('x = 1\\n', 'python')
        '```python\\nx = 1\\n```'
    """
    return Markdown(f'```{language}\n{text.strip()}\n```')
