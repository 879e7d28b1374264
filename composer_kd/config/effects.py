"""Tells which keys of a run's YAML change its result, from the marks ``composer_kd.config.markers.Effect``.

Used wherever the settings of two runs are compared: to resume a run or a sweep, and to group the seeds in a report.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from composer_kd.config.annotations import Annotation, Kind
from composer_kd.config.markers import Effect
from composer_kd.config.schema import RunConfig

__all__ = ['QUIET', 'changes_result', 'differing', 'effect_of']

QUIET: dict[str, Any] = {
    'save_folder': None,
    'profiler': None,
    'autoresume': False,
    'progress_bar': False,
    'log_to_console': False,
}
"""Settings of a run that neither saves nor prints anything itself."""

_NOTHING = frozenset({Effect.OUTPUT, Effect.EXECUTION, Effect.REFERENCE})


def effect_of(key: str) -> Effect | None:
    """Returns the effect of a key.

    Args:
        key: A dotted key; a key below a marked key has the same effect.

    Returns:
        The effect; None for a key that changes what is learned, or that is not in the schema.

    Example:
        >>> effect_of('train_loader.num_workers').name, effect_of('loggers.wandb.project').name
        ('EXECUTION', 'OUTPUT')
        >>> effect_of('optimizer.lr') is None
        True
    """
    return next((found for _, field in _along(key) if (found := field.mark(Effect)) is not None), None)


def changes_result(key: str, *apart_from: Effect) -> bool:
    """Tells whether another value of a key would change the result of a run.

    Args:
        key: A dotted key.
        apart_from: Effects to ignore, such as ``Effect.LENGTH`` for a resumed run, which may become longer.

    Returns:
        False for keys with the effect ``OUTPUT``, ``EXECUTION`` or ``REFERENCE``, and for keys with an ignored effect.

    Example:
        >>> changes_result('max_duration'), changes_result('max_duration', Effect.LENGTH), changes_result('run_name')
        (True, False, False)
    """
    effect = effect_of(key)
    return effect is None or effect not in _NOTHING.union(apart_from)


def differing(before: Mapping[str, Any], now: Mapping[str, Any], *apart_from: Effect) -> list[str]:
    """Lists the keys with different values in two runs that change the result.

    Args:
        before: Settings by dotted key, possibly saved by another version of the package.
        now: Settings to compare with, by dotted key.
        apart_from: Effects to ignore, as in ``changes_result``.

    Returns:
        The dotted keys. A field that only one of the two has comes from another version of the schema; it counts if
        its value is not the default.

    Example:
        >>> differing({'seed': 1, 'run_name': 'a', 'of_old': 1}, {'seed': 2, 'run_name': 'b'})
        ['seed']
    """
    return [
        key
        for key in dict.fromkeys((*before, *now))
        if before.get(key) != now.get(key)
        and changes_result(key, *apart_from)
        and not (_is_unknown(key, before) and _is_default(key, now[key]))
        and not (_is_unknown(key, now) and _is_default(key, before[key]))
    ]


def _is_unknown(key: str, settings: Mapping[str, Any]) -> bool:
    """Whether settings contain the section of a key's field, but not the field itself."""
    sections = [name for name, field in _along(key.rpartition('.')[0]) if field.kind is Kind.SECTION]
    section = f'{sections[-1]}.' if sections else ''
    field = section + key.removeprefix(section).partition('.')[0]
    fields = {section + name.removeprefix(section).partition('.')[0] for name in settings if name.startswith(section)}
    return bool(fields) and field not in fields


def _is_default(key: str, value: Any) -> bool:
    """Whether a value is the default of its key's field; true for a key that this version's schema does not have."""
    section: Any = RunConfig
    default: Any = None
    for name in key.split('.'):
        if section is None:
            break
        field = {one.name: one for one in dataclasses.fields(section)}.get(name)
        if field is None:
            return True
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        section = _fields(section)[name].section
    return bool(value == default)


def _along(key: str) -> Iterator[tuple[str, Annotation]]:
    """Yields the fields of the schema along a dotted key, each with its own dotted key."""
    section: type | None = RunConfig
    passed = ''
    for part in key.split('.'):
        field = _fields(section).get(part) if section is not None else None
        if field is None:
            return
        passed = f'{passed}.{part}' if passed else part
        yield passed, field
        section = field.section if field.kind is Kind.SECTION else None


@functools.cache
def _fields(section: type) -> dict[str, Annotation]:
    return {name: Annotation.of(hint) for name, hint in typing.get_type_hints(section, include_extras=True).items()}
