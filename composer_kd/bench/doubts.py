"""Warnings about the reliability of a benchmark's numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from composer_kd.bench.devices import cores
from composer_kd.bench.results import Row
from composer_kd.bench.speed_up import SpeedUp

__all__ = ['BUSY', 'busy', 'doubts']

BUSY = 'the machine was busy'
"""The beginning of the warning that puts all timings in doubt."""

LISTED = 2
"""How many comparisons a warning names for each quantity."""


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
        rows: The rows of all settings.

    Returns:
        A warning for each pair of models: in how many comparisons it is so, and the first of these with their ratios.
    """
    compared: dict[tuple[str, str], dict[str, list[_Case]]] = {}
    of_setting = {(row.setting, row.model): row for row in rows}
    for row in rows:
        for quantity, case, ratio in _ratios(row):
            cases = compared.setdefault((row.model, ratio.against), {}).setdefault(quantity, [])
            cases.append(_Case(case, f'{ratio.median:.2f}', ratio.is_clear))
        other = None if row.speed_up is None else of_setting.get((row.setting, row.speed_up.against))
        if other is not None and (found := _throughput(row, other)) is not None:
            compared[row.model, other.model].setdefault('best throughput', []).append(found)
    return [said for pair, quantities in compared.items() for said in _said(*pair, quantities)]


@dataclass(frozen=True)
class _Case:
    """One comparison: where, the ratio of the two models as text, and whether it is larger than the noise."""

    where: str
    ratio: str
    is_clear: bool


def _ratios(row: Row) -> Iterator[tuple[str, str, SpeedUp]]:
    """All speed-ups of a row: the quantity, the setting (empty for cells, which tables mark), and the ratio."""
    where = str(row.setting)
    if row.speed_up is not None:
        yield 'latency', where, row.speed_up
    for text in row.texts:
        if text.speed_up is not None:
            yield 'tokens/s', '', text.speed_up
    for one in row.generation:
        for quantity, ratio in (('first token', one.first_token_speed_up), ('later tokens', one.speed_up)):
            if ratio is not None:
                yield quantity, '', ratio


def _throughput(row: Row, other: Row) -> _Case | None:
    ours, theirs = row.best_throughput, other.best_throughput
    if ours is None or theirs is None or not ours.samples_per_second or not theirs.samples_per_second:
        return None
    difference = abs(ours.samples_per_second - theirs.samples_per_second)
    ratio = f'{ours.samples_per_second / theirs.samples_per_second:.2f}'
    return _Case(str(row.setting), ratio, difference > max(ours.iqr or 0.0, theirs.iqr or 0.0))


def _said(model: str, against: str, quantities: Mapping[str, Sequence[_Case]]) -> list[str]:
    found = []
    for quantity, cases in quantities.items():
        doubtful = [case for case in cases if not case.is_clear]
        if doubtful:
            listed = '; '.join(f'{case.where}: {case.ratio}' for case in doubtful[:LISTED] if case.where)
            more = f'; {len(doubtful) - LISTED} more' if len(doubtful) > LISTED else ''
            where = f' ({listed}{more})' if listed else ''
            found.append(f'{quantity} in {len(doubtful)} of {len(cases)} comparisons{where}')
    return [f'{model} and {against}: the difference is within the noise for {", ".join(found)}'] if found else []
