"""Builds the tables of texts: tokens per second by length, and the speed of writing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from composer_kd.bench.results import Setting
from composer_kd.bench.speed_up import SpeedUp
from composer_kd.bench.text_results import GenerationSpeed, TextSpeed
from composer_kd.presentation.tables import Cell, Column, Table
from composer_kd.presentation.units import TIMES, count_text, number_text, time_unit, times
from composer_kd.reports.groups import Group
from composer_kd.reports.speed import Speed, Timing, device_text

__all__ = ['next_token', 'reading_tables', 'unit_of_writing', 'writing_tables']

_SMALL = 'In small letters, the speed-up over the teacher in the same rounds; unclear where it is within the noise. '
_START = (Column('backend', numeric=False), Column('precision', numeric=False), Column('model', numeric=False))


def reading_tables(speed: Speed) -> dict[str, Table]:
    """The tables of tokens per second, one for each device: a row for each model, backend and precision."""
    return {
        f'Tokens per second: {device_text(device)}': _table_of_reading(timings)
        for device, timings in _by_device(speed, lambda timing: bool(texts_of(timing)))
    }


def writing_tables(speed: Speed) -> dict[str, Table]:
    """The tables of writing, one for each device: a row for each model, backend, precision and batch size."""
    return {
        f'Writing: {device_text(device)}': _table_of_writing(timings)
        for device, timings in _by_device(speed, lambda timing: bool(generation_of(timing)))
    }


def texts_of(timing: Timing) -> list[TextSpeed]:
    """The speeds of reading of the first member that was timed so."""
    return next((row.texts for row in timing.rows if row.texts), [])


def generation_of(timing: Timing) -> list[GenerationSpeed]:
    """The speeds of writing of the first member that was timed so."""
    return next((row.generation for row in timing.rows if row.generation), [])


def _by_device(speed: Speed, has: Callable[[Timing], bool]) -> list[tuple[Setting, list[Timing]]]:
    found = []
    for device in speed.devices:
        timings = [one for one in speed.on(device) if has(one)]
        ways = list(dict.fromkeys((one.setting.backend, one.setting.precision) for one in timings))
        timings.sort(key=lambda one: ways.index((one.setting.backend, one.setting.precision)))
        found += [(device, timings)] if timings else []
    return found


def _named(timing: Timing) -> list[Cell]:
    setting = timing.setting
    return [Cell(setting.backend), Cell(setting.precision), Cell(timing.group.name, '', timing.group.role)]


def _table_of_reading(timings: Sequence[Timing]) -> Table:
    cells = sorted({(one.length, one.batch) for timing in timings for one in texts_of(timing)})
    columns = [*_START, *(Column(f'{length} tokens', unit=f'batch {batch}') for length, batch in cells)]
    rows = []
    for timing in timings:
        known = {(one.length, one.batch): one for one in texts_of(timing)}
        rows.append([*_named(timing), *(_rate(known.get(cell)) for cell in cells)])
    caption = (
        'Texts without padding: every position is a token, and is attended; of an encoder-decoder, the tokens of the '
        'source. ' + _SMALL + _why(timings)
    )
    return Table(columns, rows, caption.strip())


def _rate(one: TextSpeed | None) -> Cell:
    if one is None or one.tokens_per_second is None:
        return Cell('')
    return Cell(count_text(one.tokens_per_second), _factor(one.speed_up))


def _factor(ratio: SpeedUp | None) -> str:
    return '' if ratio is None else times(ratio.median) if ratio.is_clear else 'unclear'


def _table_of_writing(timings: Sequence[Timing]) -> Table:
    prompts = sorted({one.prompt for timing in timings for one in generation_of(timing)})
    batches = sorted({one.batch for timing in timings for one in generation_of(timing)})
    done = [one for timing in timings for one in generation_of(timing)]
    unit, per_second = time_unit(one.token_seconds for one in done)
    columns = [*_START, Column('batch')]
    for prompt in prompts:
        columns += [
            Column('first token', unit=f'after {prompt}, {unit}'),
            Column('next token', unit=f'after {prompt}, {unit}'),
            Column('new tokens/s', unit=f'after {prompt}'),
        ]
    rows = []
    for timing in timings:
        known = {(one.prompt, one.batch): one for one in generation_of(timing)}
        for batch in batches:
            row = [*_named(timing), Cell(str(batch))]
            for prompt in prompts:
                row += _written(known.get((prompt, batch)), per_second)
            if any(cell.text for cell in row[len(_START) + 1 :]):
                rows.append(row)
    new = max(one.new_tokens for one in done)
    caption = (
        f'generate of transformers, greedy, {new} new tokens, with its cache of keys and values. First token: from the '
        'call on, the prompt included. Next token: the median time from one to the next; new tokens/s are those of the '
        f'whole batch. {_SMALL}'
    )
    return Table(columns, rows, caption).without_empty()


def _written(one: GenerationSpeed | None, per_second: float) -> list[Cell]:
    if one is None or one.first_token_seconds is None or one.token_seconds is None:
        return [Cell(''), Cell(''), Cell('')]
    return [
        Cell(number_text(per_second * one.first_token_seconds), _factor(one.first_token_speed_up)),
        Cell(number_text(per_second * one.token_seconds), _factor(one.speed_up)),
        Cell(count_text(one.tokens_per_second)),
    ]


def _why(timings: Sequence[Timing]) -> str:
    """The reasons why cells are empty, with how many each explains."""
    reasons: dict[str, int] = {}
    for timing in timings:
        for one in texts_of(timing):
            if one.failed is not None:
                reason = one.failed.partition(':')[0]
                reasons[reason] = reasons.get(reason, 0) + 1
    listed = '; '.join(f'{reason} ({count}{TIMES})' for reason, count in reasons.items())
    return f'Empty: {listed}.' if listed else ''


def unit_of_writing(groups: Sequence[Group], device: Setting, speed: Speed) -> tuple[str, float]:
    """The unit for the times from one new token to the next, as eager fp32 takes: its name, and units per second."""
    found = [_writing(each, device, speed) for each in groups]
    return time_unit(one[0].token_seconds for one in found if one is not None)


def next_token(each: Group, device: Setting, speed: Speed, per_second: float) -> Cell:
    """The time from one new token to the next in eager fp32, and how it compares with the teacher's.

    Args:
        each: The group.
        device: The device, as in ``Speed.devices``.
        speed: The timings.
        per_second: The units per second.
    """
    one, ratio = _writing(each, device, speed) or (None, None)
    if one is None or one.token_seconds is None:
        return Cell('')
    note = '' if ratio is None else f'{times(ratio.median)} as fast' if ratio.is_clear else 'no clear difference'
    return Cell(number_text(one.token_seconds * per_second), note)


def _writing(each: Group, device: Setting, speed: Speed) -> tuple[GenerationSpeed, SpeedUp | None] | None:
    timing = speed.find(each, device)
    return None if timing is None else speed.writing(timing)
