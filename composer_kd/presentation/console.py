"""The terminal on which tables and lines are shown."""

from __future__ import annotations

from typing import Any

from rich.console import Console

__all__ = ['terminal']


def terminal(**settings: Any) -> Console:
    """A console that shows texts as they are: names of runs and folders may hold brackets, which rich reads as markup.

    Args:
        **settings: Settings of ``rich.console.Console``.

    Example:
        >>> terminal(width=40).print('a run called [red]a[/b]')
        a run called [red]a[/b]
    """
    return Console(markup=False, highlight=False, **settings)
