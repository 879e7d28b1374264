"""The errors of composer_kd: one base class; each error is also the builtin error that its kind suggests.

A message says what was expected, what was given, and what to do; for a mistyped name it lists the nearest valid names.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

__all__ = [
    'Attempts',
    'CheckpointError',
    'CheckpointNotFoundError',
    'ComposerKDError',
    'ConfigError',
    'LossError',
    'StorageError',
    'StoreError',
    'TeacherError',
    'stopped_by',
]


class ComposerKDError(Exception):
    """Base class of this package's errors. Only the losses, which import torch alone, raise plain ``ValueError``."""


class ConfigError(ComposerKDError, ValueError):
    """A setting is wrong: an argument, a YAML key, or two settings that exclude each other."""


class TeacherError(ComposerKDError, ValueError):
    """A teacher does not fit the student: other logits, shared parameters, or inputs that it cannot take."""


class CheckpointError(ComposerKDError, ValueError):
    """A checkpoint is truncated, unsafe, or does not fit the module that loads it."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """A checkpoint does not exist at the given path or URI."""


class LossError(ComposerKDError, ValueError):
    """A distillation loss failed, or returned something other than a finite scalar that depends on the student."""


class StoreError(ComposerKDError, ValueError):
    """A store of teacher outputs is unfinished, damaged, or of something else; or it cannot hold what it is given."""


class StorageError(ComposerKDError, OSError):
    """A file of a run or of a store cannot be written, because the disk is full or a quota is used up."""


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """Finds the known names nearest to a mistyped one.

    Args:
        name: The name as written.
        known: The valid names.
        n: The largest number of names to list.

    Returns:
        A clause that ends a sentence: ``"; did you mean 'lr'?"``; all valid names if none is near; or ``''`` if there
        are no valid names.

    Example:
        >>> nearest('learning_rat', ['learning_rate', 'momentum'])
        "; did you mean 'learning_rate'?"
        >>> nearest('x', ['learning_rate', 'momentum'])
        '; valid: learning_rate, momentum'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=n, cutoff=0.6)
    if close:
        return '; did you mean ' + ' or '.join(repr(c) for c in close) + '?'
    return '; valid: ' + ', '.join(known) if known else ''


_STOPS = (signal.SIGINT, signal.SIGTERM)


def stopped_by(error: BaseException) -> signal.Signals | None:
    """Tells which signal ends the process with an exception: Ctrl-C, or SIGTERM as schedulers and `kill` send it.

    Composer turns both into SystemExit once it is imported, which is no failure of the code that runs just then.

    Args:
        error: The exception.

    Returns:
        SIGINT or SIGTERM; None for anything else.

    Example:
        >>> stopped_by(SystemExit(143)).name, stopped_by(KeyboardInterrupt()).name, stopped_by(SystemExit(1))
        ('SIGTERM', 'SIGINT', None)
    """
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, SystemExit):
        return next((number for number in _STOPS if error.code == 128 + number), None)
    return None


def is_of_device(error: Exception) -> bool:
    """Whether the accelerator raised an error; Composer catches these and retries with smaller microbatches."""
    return any(sign in str(error).lower() for sign in ('out of memory', 'cuda', 'cudnn', 'c10'))


T = TypeVar('T')


class Attempts:
    """Collects errors from several calls, to raise them together at the end.

    Example:
        >>> attempt = Attempts()
        >>> attempt(int, '3')
        3
        >>> attempt.finish()
    """

    def __init__(self) -> None:
        self.errors: list[ComposerKDError] = []

    def __call__(self, build: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
        """Calls a function.

        Args:
            build: The function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            Its result; ``None`` if it raised an error of this package, which is collected.
        """
        try:
            return build(*args, **kwargs)
        except ComposerKDError as error:
            self.errors.append(error)
            return None

    def finish(self) -> None:
        """Raises the collected errors: one unchanged, several as one ``ConfigError`` with all their messages."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise ConfigError('\n'.join(str(error) for error in self.errors)) from self.errors[0]
