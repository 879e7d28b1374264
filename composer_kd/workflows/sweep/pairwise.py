"""Pairwise testing: few assignments that contain each pair of parameter values, to check a sweep before it starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ['covering_rows', 'shrink']


def covering_rows(choices: Sequence[int]) -> list[tuple[int, ...]]:
    """Finds few assignments that contain each pair of values of any two parameters (a covering array of strength 2).

    Most incompatibilities of settings involve two parameters. There are far fewer assignments than combinations: ten
    parameters with three values each have 59,049 combinations, and about twenty assignments cover their pairs.

    Args:
        choices: The number of values of each parameter.

    Returns:
        For each assignment, the index of the value of each parameter; the first assignment is all zeros.

    Example:
        >>> len(covering_rows([3] * 10)) < 30
        True
        >>> covering_rows([2])
        [(0,), (1,)]
    """
    values = [(parameter, value) for parameter, count in enumerate(choices) for value in range(count)]
    # Each value is also paired with itself, so that the values of a single parameter are covered.
    missing = {(a, b) for a, b in itertools.combinations_with_replacement(values, 2) if a == b or a[0] != b[0]}
    rows = []
    row = (0,) * len(choices)
    while missing:
        rows.append(row)
        missing -= set(itertools.combinations_with_replacement(list(enumerate(row)), 2))
        row = _next_row(choices, missing) if missing else row
    return rows


def _next_row(choices: Sequence[int], missing: set[tuple[tuple[int, int], tuple[int, int]]]) -> tuple[int, ...]:
    """Starts with a missing pair, then chooses for each other parameter the value that adds most missing pairs."""
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
    """Reduces an assignment to the values that cause a fault.

    Args:
        assignment: The values of all parameters with which the fault occurs.
        default: The default values of the same parameters.
        still: A function that returns whether the fault occurs with the given values.

    Returns:
        The values that must differ from the default for the fault to occur; empty if it occurs with the default.

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
