"""Escapes and formats text for Markdown."""

from __future__ import annotations

import re

__all__ = ['Markdown', 'bold', 'code', 'fenced', 'markdown_text']


class Markdown(str):
    """Text that is Markdown already: :func:`markdown_text` returns it unchanged, and escapes all other text.

    Example:
        >>> markdown_text('*a*'), markdown_text(Markdown('*a*'))
        ('\\\\*a\\\\*', '*a*')
    """

    __slots__ = ()


def markdown_text(text: str) -> Markdown:
    """Escapes text, so that Markdown shows it literally, and joins its lines into one.

    Example:
        >>> markdown_text('<b>*a*|b_c')
        '&lt;b&gt;\\\\*a\\\\*\\\\|b\\\\_c'
    """
    if isinstance(text, Markdown):
        return text
    text = ' '.join(text.split()).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    return Markdown(re.sub(r'([\\`*_|\[\]])', r'\\\1', text))


def bold(text: str) -> Markdown:
    """Formats text in bold, escaped.

    Example:
        >>> bold('a*b')
        '**a\\\\*b**'
    """
    return Markdown(f'**{markdown_text(text)}**')


def code(text: str) -> Markdown:
    """Formats text as inline code.

    Example:
        >>> code('a_b')
        '`a_b`'
    """
    return Markdown(f'`{text}`')


def fenced(text: str, language: str) -> Markdown:
    """Formats text as a code block in a language.

    Example:
        >>> fenced('x = 1\\n', 'python')
        '```python\\nx = 1\\n```'
    """
    return Markdown(f'```{language}\n{text.strip()}\n```')
