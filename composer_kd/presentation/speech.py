"""How much a command says, and whether somebody watches it say so."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar

__all__ = ['is_quiet', 'is_watched', 'loading', 'speaking']

_quiet: ContextVar[bool] = ContextVar('quiet', default=False)
_LOGGED = ('composer', 'composer_kd')


def is_quiet() -> bool:
    """Whether results and errors alone are printed.

    Example:
        >>> with speaking(quiet=True):
        ...     is_quiet()
        True
    """
    return _quiet.get()


def is_watched() -> bool:
    """Whether progress may be redrawn in place: on a terminal, with nothing piped elsewhere, unless asked to be quiet.

    Example:
        >>> with speaking(quiet=True):
        ...     is_watched()
        False
    """
    return not is_quiet() and sys.stdout.isatty() and sys.stderr.isatty()


@contextlib.contextmanager
def speaking(quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Says how much is printed while the block runs.

    Args:
        quiet: Results and errors alone: neither progress nor notes.
        verbose: Also what Composer and this package log, with the time, on standard error.
    """
    token = _quiet.set(quiet)
    levels = {name: logging.getLogger(name).level for name in _LOGGED}
    handler = logging.StreamHandler()
    if verbose:
        handler.setFormatter(logging.Formatter('%(asctime)s %(name)s: %(message)s', '%H:%M:%S'))
        for name in _LOGGED:
            logging.getLogger(name).setLevel(logging.INFO)
            logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        _quiet.reset(token)
        for name, level in levels.items():
            if verbose:
                logging.getLogger(name).setLevel(level)
                logging.getLogger(name).removeHandler(handler)


@contextlib.contextmanager
def loading(package: str = 'composer') -> Iterator[None]:
    """Says that a package is being loaded, which takes some seconds; the line is gone when the block ends.

    Args:
        package: Its name; nothing is said if it is loaded already.

    Example:
        >>> with loading('sys'):
        ...     import composer_kd
    """
    if package in sys.modules or not is_watched():
        yield
        return
    print(f'loading {package.capitalize()} ...', end='', file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print('\r\033[K', end='', file=sys.stderr, flush=True)
