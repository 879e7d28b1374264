"""What composer_kd raises: one base class; every error is also the builtin that one would expect.

A message says what was expected, what came, and what to do; where a name was mistyped it lists the nearest ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

__all__ = [
    'Attempts',
    'CheckpointError',
    'CheckpointNotFoundError',
    'ComposerKDError',
    'ConfigError',
    'LossError',
    'TeacherError',
]


class ComposerKDError(Exception):
    """Base of this package's errors. The losses alone, which import nothing but torch, raise ``ValueError``."""


class ConfigError(ComposerKDError, ValueError):
    """A setting is wrong: an argument, a YAML key, or two settings that exclude one another."""


class TeacherError(ComposerKDError, ValueError):
    """A teacher cannot teach this student: other logits, shared parameters, unknown inputs."""


class CheckpointError(ComposerKDError, ValueError):
    """A checkpoint is truncated, unsafe, or does not fit the module it is loaded into."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """A checkpoint is not where it was said to be."""


class LossError(ComposerKDError, ValueError):
    """A distillation loss returned something that cannot be trained on."""


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """Says which known names come nearest to a mistyped one.

    Args:
        name: What was written.
        known: The valid names.
        n: How many to name at most.

    Returns:
        A clause that ends a sentence: ``"; did you mean 'lr'?"``, or the valid names where none is near, or ``''``
        where there are none at all.

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


def is_of_device(error: Exception) -> bool:
    """Whether an error is of the accelerator: Composer looks for these, to try again with smaller microbatches."""
    return any(sign in str(error).lower() for sign in ('out of memory', 'cuda', 'cudnn', 'c10'))


T = TypeVar('T')


class Attempts:
    """Goes on after errors, to raise them all at the end in one.

    Example:
        >>> attempt = Attempts()
        >>> attempt(int, '3')
        3
        >>> attempt.finish()
    """

    def __init__(self) -> None:
        self.errors: list[ComposerKDError] = []

    def __call__(self, build: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
        """Calls something; returns None where it raises an error of this package, and keeps that."""
        try:
            return build(*args, **kwargs)
        except ComposerKDError as error:
            self.errors.append(error)
            return None

    def finish(self) -> None:
        """Raises what was kept: a single error as it is, several as one ConfigError with all their messages."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise ConfigError('\n'.join(str(error) for error in self.errors)) from self.errors[0]
