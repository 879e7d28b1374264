"""In what the settings of runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from composer_kd.presentation.paths import portable
from composer_kd.presentation.settings import leaves

__all__ = ['ABSENT', 'differing']

ABSENT = '(nothing)'
"""Stands where a run does not have a key."""

_HIDDEN = ('variables.',)  # they are shown where they are used


def differing(columns: Sequence[Sequence[Mapping[str, Any]]]) -> list[tuple[str, list[str]]]:
    """Lists the settings in which runs differ.

    Args:
        columns: For each column, the settings of the runs that it stands for.

    Returns:
        For each key that does not have one value everywhere: the dotted key, and for each column its values, those of
        several runs with commas between them. A key that a run lacks, or of which it has nothing but an empty mapping
        or null, has the value ``ABSENT`` there.

    Example:
        >>> differing([[{'lr': 0.1, 'seed': 1}, {'lr': 0.1, 'seed': 2}], [{'lr': 0.2, 'kd': {'T': 4}, 'seed': 1}]])
        [('lr', ['0.1', '0.2']), ('seed', ['1, 2', '1']), ('kd.T', ['(nothing)', '4'])]
    """
    flat = [[_written(settings) for settings in column] for column in columns]
    keys = dict.fromkeys(key for column in flat for settings in column for key in settings)
    found = []
    for key in keys:
        values = [[settings.get(key, ABSENT) for settings in column] for column in flat]
        if len({value for column in values for value in column}) > 1:
            found.append((key, [', '.join(dict.fromkeys(column)) for column in values]))
    return found


def _written(settings: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: _text(value)
        for key, value in leaves(settings).items()
        if value not in (None, {}, []) and not key.startswith(_HIDDEN)
    }


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else portable(str(value))
