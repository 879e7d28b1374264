"""Lists the settings in which runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from composer_kd.presentation.paths import portable
from composer_kd.presentation.settings import leaves

__all__ = ['ABSENT', 'differing']

ABSENT = '(nothing)'
"""The value shown for a key that a run does not have."""

_HIDDEN = ('variables.',)  # shown in the settings that use them


def differing(columns: Sequence[Sequence[Mapping[str, Any]]]) -> list[tuple[str, list[str]]]:
    """Lists the settings in which runs differ.

    Args:
        columns: For each column of the table, the settings of its runs.

    Returns:
        For each key whose value differs: the dotted key and, for each column, its values, separated by commas if the
        runs of the column differ. Where the key is missing, null or an empty mapping or list, the value is ``ABSENT``.

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
