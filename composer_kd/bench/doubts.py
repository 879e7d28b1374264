"""Warnings about the reliability of a benchmark's numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence

from composer_kd.bench.devices import cores
from composer_kd.bench.results import Row

__all__ = ['BUSY', 'busy', 'doubts']

BUSY = 'the machine was busy'
"""The beginning of the warning that puts all timings in doubt."""


def busy() -> list[str]:
    """Returns a warning if other processes use the processor, which distorts timings; otherwise an empty list."""
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else 0.0
    if load <= 0.5 * cores():
        return []
    return [
        f'{BUSY} at the start (load {load:.1f} on {cores()} cores): numbers are worse than those of an '
        'idle one, most of all with several threads'
    ]


def doubts(rows: Sequence[Row]) -> list[str]:
    """Finds differences between models that are smaller than the noise.

    Args:
        rows: The rows of one setting.

    Returns:
        A warning for each such difference.
    """
    by_name = {row.model: row for row in rows}
    found = []
    for row in rows:
        if row.speed_up is None:
            continue
        found += _of_latency(row)
        if row.speed_up.against in by_name:
            found += _of_throughput(row, by_name[row.speed_up.against])
    return found


def _of_latency(row: Row) -> list[str]:
    if row.speed_up is None or row.speed_up.is_clear:
        return []
    return [
        f'{row.setting}: the latencies of {row.model} and {row.speed_up.against} differ by less than the noise '
        f'(ratio {row.speed_up.median:.2f}, quartiles {row.speed_up.low:.2f} to {row.speed_up.high:.2f})'
    ]


def _of_throughput(row: Row, other: Row) -> list[str]:
    ours, theirs = row.best_throughput, other.best_throughput
    if ours is None or theirs is None:
        return []
    difference = abs((ours.samples_per_second or 0.0) - (theirs.samples_per_second or 0.0))
    noise = max(ours.iqr or 0.0, theirs.iqr or 0.0)
    if difference > noise:
        return []
    return [
        f'{row.setting}: the best throughputs of {row.model} and {other.model} differ by {difference:,.0f} samples/s, '
        f'the noise is {noise:,.0f}'
    ]
