"""Resolves names in a YAML file to classes and functions.

A bare name is looked up in the ``__all__`` of the modules of its scope; a dotted path is imported. Nothing has to be
registered: every class that these modules export has a bare name, and your own class is named by its dotted path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from composer_kd.config.bare_names import find, known_names
from composer_kd.config.dotted_paths import import_path
from composer_kd.config.kinds import is_function_itself, is_shown, require_kind
from composer_kd.config.scopes import SCOPES, Scope

__all__ = ['SCOPES', 'Scope', 'import_path', 'is_function_itself', 'is_shown', 'known_names', 'resolve']


def resolve(scope: str, name: str) -> Callable[..., Any]:
    """Finds the class or function that a name refers to in a scope.

    Args:
        scope: A key of ``SCOPES``.
        name: A bare name, in any case, with or without underscores and the scope's suffix; or a dotted path.

    Returns:
        The class or function.

    Raises:
        ConfigError: If the name is unknown; lists the nearest valid names.

    Example:
        >>> resolve('scheduler', 'cosine_annealing').__name__
        'CosineAnnealingScheduler'
        >>> resolve('optimizer', 'SDG')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: unknown optimizer 'SDG'; did you mean 'SGD'?
    """
    return require_kind(scope, import_path(name), name) if '.' in name else find(scope, name)
