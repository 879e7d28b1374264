"""A Sphinx extension: links of the pages to files of the repository that are no pages become downloads.

On the pages of a repository such a link opens the file. A folder has nothing to download: its link becomes its text.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

__all__ = ['setup', 'with_downloads']

LINK = re.compile(r'(?<!!)\[([^\]\[]+)\]\((\.\.?/[^)#\s]+)(#[^)\s]*)?\)')


def with_downloads(text: str, page: pathlib.Path, docs: pathlib.Path) -> str:
    """Replaces the links of a page to what lies outside the documents.

    Args:
        text: The Markdown of the page.
        page: Its file.
        docs: The folder of the documents.

    Returns:
        The Markdown with downloads in their place.

    Example:
        >>> docs = pathlib.Path('docs').resolve()
        >>> with_downloads('[changes](../CHANGELOG.md), [stores](./stores.md)', docs / 'page.md', docs)
        '{download}`changes <../CHANGELOG.md>`, [stores](./stores.md)'
    """

    def replaced(match: re.Match[str]) -> str:
        target = (page.parent / match[2]).resolve()
        if docs in target.parents or not target.exists():
            return match[0]
        words = match[1].strip('`')
        return words if target.is_dir() else f'{{download}}`{words} <{match[2]}>`'

    return LINK.sub(replaced, text)


def setup(app: Any) -> dict[str, Any]:
    """Tells Sphinx what to do as it reads a page."""

    def read(app: Any, name: str, source: list[str]) -> None:
        page = pathlib.Path(app.env.doc2path(name))
        if page.suffix == '.md':
            source[0] = with_downloads(source[0], page.resolve(), pathlib.Path(app.srcdir).resolve())

    app.connect('source-read', read)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
