"""The marks that annotations of the configuration carry, and the component that a checked name becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ['Component', 'Either', 'Must', 'OptionsOf', 'Part']


@dataclass(frozen=True)
class Part:
    """Marks a component: its name is looked up in this scope of ``composer_kd.run.names``."""

    scope: str


@dataclass(frozen=True)
class OptionsOf:
    """Marks a mapping whose keys are the settings of a class that takes any keyword and checks none."""

    what: str


@dataclass(frozen=True)
class Must:
    """Marks a value that must be more than of the right type.

    Args:
        words: What it must be, for messages: ``'positive'``.
        test: Tells whether a value of the right type is so.
    """

    words: str
    test: Callable[[Any], bool]


@dataclass(frozen=True)
class Either:
    """Marks a value that may be written in several ways.

    Args:
        words: What may be written, for messages.
        which: From what was written to the annotation that it is read by.
    """

    words: str
    which: Callable[[Any], Any]


@dataclass(frozen=True)
class Component:
    """A checked ``{name: ..., **options}``: everything needed to construct it, and nothing constructed yet.

    Args:
        scope: A key of ``composer_kd.run.names.SCOPES``.
        name: The name as written.
        options: Keyword arguments; teachers, losses and the like are components in their turn.
        path: The dotted key in the YAML, for messages.
    """

    scope: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    path: str = ''
