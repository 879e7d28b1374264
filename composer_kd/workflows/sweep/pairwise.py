"""Few assignments of many parameters in which any two values meet: what is tried before a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ['covering_rows', 'shrink']


def covering_rows(choices: Sequence[int]) -> list[tuple[int, ...]]:
    """Finds assignments such that for any two parameters each two of their values are together in one of them.

    Most settings that exclude one another do so in twos, and there are far fewer of these assignments than
    combinations: ten parameters of three values have 59,049 of those, and need some twenty.

    Args:
        choices: How many values each parameter has.

    Returns:
        For each assignment the number of the value of each parameter; the first one is all zeros.

    Example:
        >>> len(covering_rows([3] * 10)) < 30
        True
        >>> covering_rows([2])
        [(0,), (1,)]
    """
    values = [(parameter, value) for parameter, count in enumerate(choices) for value in range(count)]
    # A parameter alone counts as met by itself, so that a sweep of one parameter is covered too.
    missing = {(a, b) for a, b in itertools.combinations_with_replacement(values, 2) if a == b or a[0] != b[0]}
    rows = []
    row = (0,) * len(choices)
    while missing:
        rows.append(row)
        missing -= set(itertools.combinations_with_replacement(list(enumerate(row)), 2))
        row = _next_row(choices, missing) if missing else row
    return rows


def _next_row(choices: Sequence[int], missing: set[tuple[tuple[int, int], tuple[int, int]]]) -> tuple[int, ...]:
    """A row that starts with a missing pair and takes for each other parameter what meets most that is missing."""
    row = dict(min(missing))
    for parameter, count in enumerate(choices):
        if parameter not in row:
            gains = [
                sum(tuple(sorted(((parameter, value), other))) in missing for other in row.items())
                for value in range(count)
            ]
            row[parameter] = gains.index(max(gains))
    return tuple(row[parameter] for parameter in range(len(choices)))


def shrink(
    assignment: Mapping[str, Any], default: Mapping[str, Any], still: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Finds which values of an assignment something depends on.

    Args:
        assignment: All parameters with their values.
        default: The same parameters with the values that they are put back to.
        still: Whether it still happens with other values.

    Returns:
        The part of the assignment without which it no longer happens; empty if it happens with the default as well.

    Example:
        >>> shrink({'a': 1, 'b': 1, 'c': 1}, {'a': 0, 'b': 0, 'c': 0}, lambda values: values['a'] and values['c'])
        {'a': 1, 'c': 1}
    """
    kept = dict(assignment)
    for key, value in default.items():
        tried = {**kept, key: value}
        if tried != kept and still(tried):
            kept = tried
    return {key: value for key, value in kept.items() if value != default[key]}
