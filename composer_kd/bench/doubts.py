"""Warnings about the reliability of a benchmark's numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from composer_kd.bench.devices import cores
from composer_kd.bench.results import Row
from composer_kd.bench.speed_up import SpeedUp

__all__ = ['busy', 'doubts']

LISTED = 3
"""How many settings a warning names."""


def busy() -> list[str]:
    """Returns a warning if other processes use the processor, which distorts timings; otherwise an empty list."""
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else 0.0
    if load <= 0.5 * cores():
        return []
    return [
        f'the machine was busy at the start (load {load:.1f} on {cores()} cores): numbers are worse than those of an '
        'idle one, most of all with several threads'
    ]


def doubts(rows: Sequence[Row]) -> list[str]:
    """Finds differences between models that are smaller than the noise.

    Args:
        rows: The rows of all settings.

    Returns:
        A warning for each quantity and pair of models, with the settings, lengths and batch sizes in which it is so.
    """
    compared: dict[tuple[str, str, str], list[_Case]] = {}
    of_setting = {(row.setting, row.model): row for row in rows}
    for row in rows:
        for quantity, case, ratio in _ratios(row):
            compared.setdefault((quantity, row.model, ratio.against), []).append(
                _Case(case, f'{ratio.median:.2f}', ratio.is_clear)
            )
        other = None if row.speed_up is None else of_setting.get((row.setting, row.speed_up.against))
        if other is not None and (found := _throughput(row, other)) is not None:
            compared.setdefault(('best throughput', row.model, other.model), []).append(found)
    return [_said(*key, cases) for key, cases in compared.items() if not all(case.is_clear for case in cases)]


@dataclass(frozen=True)
class _Case:
    """One comparison: where, the ratio of the two models as text, and whether it is larger than the noise."""

    where: str
    ratio: str
    is_clear: bool


def _ratios(row: Row) -> Iterator[tuple[str, str, SpeedUp]]:
    """All speed-ups of a row: the quantity, the setting (and cell), and the ratio."""
    where = str(row.setting)
    if row.speed_up is not None:
        yield 'latency', where, row.speed_up
    for text in row.texts:
        if text.speed_up is not None:
            yield 'tokens/s', f'{where} ({text.length} tokens, batch {text.batch})', text.speed_up
    for one in row.generation:
        for quantity, ratio in (('first token', one.first_token_speed_up), ('later tokens', one.speed_up)):
            if ratio is not None:
                yield quantity, f'{where} (prompt of {one.prompt}, batch {one.batch})', ratio


def _throughput(row: Row, other: Row) -> _Case | None:
    ours, theirs = row.best_throughput, other.best_throughput
    if ours is None or theirs is None or not ours.samples_per_second or not theirs.samples_per_second:
        return None
    difference = abs(ours.samples_per_second - theirs.samples_per_second)
    ratio = f'{ours.samples_per_second / theirs.samples_per_second:.2f}'
    return _Case(str(row.setting), ratio, difference > max(ours.iqr or 0.0, theirs.iqr or 0.0))


def _said(quantity: str, model: str, against: str, cases: Sequence[_Case]) -> str:
    doubtful = [case for case in cases if not case.is_clear]
    listed = '; '.join(f'{case.where}: {case.ratio}' for case in doubtful[:LISTED])
    more = f'; and {len(doubtful) - LISTED} more' if len(doubtful) > LISTED else ''
    share = '' if len(cases) == 1 else f' in {len(doubtful)} of {len(cases)} comparisons'
    return f'{quantity} of {model} and {against}: a factor within the noise{share} ({listed}{more})'
