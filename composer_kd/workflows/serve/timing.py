"""Runs models on one input in turns, and takes the time of each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from composer_kd.bench.failures import reason

__all__ = ['MOST_SECONDS', 'PASSES', 'Measured', 'measured']

PASSES = 15
"""The largest number of timed passes: enough for a median that one interruption does not move."""

MOST_SECONDS = 2.0
"""The time after which no further round of passes begins."""
T = TypeVar('T')


@dataclass(frozen=True)
class Measured(Generic[T]):
    """What a model answered, and how long that took.

    Attributes:
        result: What the call returned; None if it failed.
        seconds: The median over the passes after a first one; None if it failed.
        error: Why it failed.
    """

    result: T | None
    seconds: float | None
    error: str = ''


def measured(runs: Mapping[str, Callable[[], T]], clock: Callable[[], float]) -> dict[str, Measured[T]]:
    """Runs each model once to warm up, and then times :data:`PASSES` passes in which they take turns.

    Args:
        runs: The call of each model, by name.
        clock: Waits for the device, and returns the time in seconds.

    Returns:
        By name, the result of the first call and the median time of the others: of one of them at least, and of fewer
        than :data:`PASSES` if they take longer than :data:`MOST_SECONDS`.

    Example:
        >>> found = measured({'seven': lambda: 7, 'none': lambda: 1 / 0}, time.perf_counter)
        >>> found['seven'].result, found['none'].error
        (7, 'ZeroDivisionError: division by zero')
    """
    results: dict[str, T] = {}
    failed: dict[str, str] = {}
    for name, run in runs.items():
        try:
            results[name] = run()
        except Exception as error:  # models raise errors of any type; the others answer all the same
            failed[name] = reason(error)
    times: dict[str, list[float]] = {name: [] for name in results}
    end = time.perf_counter() + MOST_SECONDS
    for number in range(PASSES):
        if number and time.perf_counter() > end:
            break
        for name, taken in times.items():
            start = clock()
            runs[name]()
            taken.append(clock() - start)
    return {
        name: Measured(results[name], statistics.median(times[name]))
        if name in results
        else Measured(None, None, failed[name])
        for name in runs
    }
