"""The names without dots of each kind of component: what the modules of its scope export."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from functools import cache
from typing import Any

from composer_kd.config.dotted_paths import import_path, public_names
from composer_kd.config.scopes import SCOPES, Scope
from composer_kd.errors import ConfigError, nearest

__all__ = ['find', 'has_name', 'known_names']

MOST_NAMES = 60  # the longest list of valid names in a message


@cache
def known_names(scope: str) -> dict[str, Any]:
    """Lists the bare names of a scope.

    Args:
        scope: A key of ``SCOPES``.

    Returns:
        The class or function of each name; if two modules export the same name, that of the first module.

    Example:
        >>> sorted(known_names('optimizer'))[:3]
        ['ASGD', 'Adadelta', 'Adafactor']
    """
    rule = SCOPES[scope]
    base = import_path(rule.base) if rule.base else None
    found: dict[str, Any] = {path.rpartition('.')[2]: import_path(path) for path in rule.also}
    for module_name in rule.modules:
        module = importlib.import_module(module_name)
        for name in public_names(module):
            thing = getattr(module, name)
            if name not in rule.without and _belongs(thing, name, base, rule):
                found.setdefault(name, thing)
    return found


def has_name(scope: str, thing: Any) -> bool:
    """Whether a thing, or the function that a partial of your own calls, is among those with a bare name in a scope.

    Example:
        >>> import torch
        >>> has_name('optimizer', torch.optim.SGD), has_name('optimizer', torch.nn.Linear)
        (True, False)
    """
    while isinstance(thing, functools.partial) and not inspect.isclass(thing.func):
        thing = thing.func
    return any(thing is known for known in known_names(scope).values())


def find(scope: str, name: str) -> Any:
    """Finds what a bare name stands for.

    Args:
        scope: A key of ``SCOPES``.
        name: The name, in any case, with or without underscores and the scope's suffix.

    Raises:
        ConfigError: If the name is unknown; lists the nearest valid names.

    Example:
        >>> find('scheduler', 'cosine_annealing').__name__
        'CosineAnnealingScheduler'
    """
    known = known_names(scope)
    if name in known:
        return known[name]
    suffix = _fold(SCOPES[scope].suffix)
    loose = {_fold(key): known[key] for key in _spelt_alike_last(name, known)}
    for candidate in (_fold(name), _fold(name) + suffix):
        if candidate in loose:
            return loose[candidate]
    raise ConfigError(f'unknown {SCOPES[scope].what} {name!r}{_nearest(name, known, suffix)}')


def _belongs(thing: Any, name: str, base: type | None, rule: Scope) -> bool:
    if base is not None:
        return isinstance(thing, type) and issubclass(thing, base) and thing is not base
    return callable(thing) and (not rule.suffix or name.endswith(rule.suffix))


def _fold(name: str) -> str:
    return name.replace('_', '').lower()


def _spelt_alike_last(name: str, known: dict[str, Any]) -> list[str]:
    """Sorts names that match the case of ``name`` last: they win where a class and a function differ in case only."""
    return sorted(known, key=lambda key: key.islower() == name.islower())


def _nearest(name: str, known: dict[str, Any], suffix: str) -> str:
    # YAML keys are snake_case, classes CamelCase: compares without case, underscores and suffix, and shows real names.
    shown = {_fold(key).removesuffix(suffix): key for key in _spelt_alike_last(name, known)}
    clause = nearest(_fold(name).removesuffix(suffix), shown)
    if 'did you mean' not in clause:
        return nearest(name, known) if len(known) <= MOST_NAMES else '; other things are named by their dotted path'
    return re.sub(r"'([^']+)'", lambda match: repr(shown[match[1]]), clause)
