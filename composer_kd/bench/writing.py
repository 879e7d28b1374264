"""Measures how fast models write: the first token after a prompt, and those that follow."""

from __future__ import annotations

import functools
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from composer_kd.bench.devices import Device
from composer_kd.bench.failures import reason
from composer_kd.bench.guard import Guard
from composer_kd.bench.speed_up import SpeedUp
from composer_kd.bench.text_results import GenerationSpeed
from composer_kd.bench.texts import Cell, TextPlan, Texts
from composer_kd.bench.timing import FEWEST_ROUNDS, ratio_of_rounds, rounds_in, spread, take_turns
from composer_kd.features.generation import Stopwatch, write_greedily

__all__ = ['Writer', 'write_cells']


@dataclass(frozen=True)
class Writer:
    """A model that writes, in one setting.

    Args:
        net: The model of transformers, on the device.
        texts: Its texts.
        teacher: The name of its teacher; ``''`` for none.
    """

    net: Any
    texts: Texts
    teacher: str


@dataclass(frozen=True)
class _Turn:
    """One batch of prompts that were continued: seconds until the first token, and between later ones (the median)."""

    first: float
    later: float


def write_cells(
    writers: Mapping[str, Writer], plan: TextPlan, device: Device, seconds: float, rng: random.Random
) -> dict[str, list[GenerationSpeed]]:
    """Lets all models continue prompts of each length and batch size, in turns.

    Args:
        writers: The models, by name.
        plan: The lengths and batch sizes of the prompts, and how many tokens follow.
        device: The device that the models run on.
        seconds: The time for each model.
        rng: Shuffles the order in which models take turns.

    Returns:
        For each model its speed in each cell, in the order of the cells; where it was not measured, with the reason.
    """
    found: dict[str, list[GenerationSpeed]] = {name: [] for name in writers}
    guards = {name: Guard(device, seconds, plan.prompts, FEWEST_ROUNDS) for name in writers}
    share = seconds / len(plan.prompts)
    for cell in plan.prompts:
        turns, slowest = {}, 0.0
        failed: dict[str, str] = {}
        for name, writer in writers.items():
            refused = _no_room(writer, cell, plan.new_tokens) or guards[name].refuses(cell)
            if refused is None:
                try:
                    turn = _turn(writer, cell, plan.new_tokens, device)
                    slowest = max(slowest, guards[name].first_calls(cell, turn, 0.0, calls=1))
                    turns[name] = turn
                    continue
                except Exception as error:  # models raise errors of any type
                    refused = reason(error)
                    guards[name].fail(cell, refused)
            failed[name] = refused
        timed, broken = take_turns(turns, rounds_in(share, slowest), rng) if turns else ({}, {})
        for name, why in broken.items():
            guards[name].fail(cell, why)
        for name, writer in writers.items():
            if name in timed:
                guards[name].spend(sum(one.first + (plan.new_tokens - 1) * one.later for one in timed[name]))
                found[name].append(
                    _speed(cell, plan.new_tokens, timed[name], writer.teacher, timed.get(writer.teacher))
                )
            else:
                why = {**failed, **broken}[name]
                found[name].append(GenerationSpeed(cell.length, cell.batch, plan.new_tokens, failed=why))
        turns.clear()
    device.forget()
    return found


def _no_room(writer: Writer, cell: Cell, new_tokens: int) -> str | None:
    most = writer.texts.most
    is_decoder = not getattr(writer.net.config, 'is_encoder_decoder', False)
    wanted = cell.length + new_tokens if is_decoder else max(cell.length, new_tokens + 1)
    if most is None or wanted <= most:
        return None
    return f'it takes {most} tokens at most, and {cell.length} of the prompt and {new_tokens} new ones are more'


def _turn(writer: Writer, cell: Cell, new_tokens: int, device: Device) -> Callable[[], _Turn]:
    prompts = {key: tensor.to(device.torch_device) for key, tensor in writer.texts.prompts(cell).items()}
    return functools.partial(_write, writer.net, prompts, new_tokens, device)


def _write(net: Any, prompts: Mapping[str, Tensor], new_tokens: int, device: Device) -> _Turn:
    watch, start = Stopwatch(device.clock), device.clock()
    write_greedily(net, prompts, new_tokens, watch)
    if len(watch.times) != new_tokens:
        raise ValueError(f'it wrote {len(watch.times)} tokens of {new_tokens}')
    later = [after - before for before, after in zip(watch.times, watch.times[1:])]
    return _Turn(watch.times[0] - start, statistics.median(later))


def _speed(
    cell: Cell, new_tokens: int, turns: Sequence[_Turn], against: str, theirs: Sequence[_Turn] | None
) -> GenerationSpeed:
    first, first_iqr = spread([one.first for one in turns])
    later, later_iqr = spread([one.later for one in turns])
    ratios: tuple[SpeedUp | None, SpeedUp | None] = (None, None)
    if theirs is not None:
        ratios = (
            ratio_of_rounds(against, [one.first for one in theirs], [one.first for one in turns]),
            ratio_of_rounds(against, [one.later for one in theirs], [one.later for one in turns]),
        )
    return GenerationSpeed(
        cell.length,
        cell.batch,
        new_tokens,
        first,
        first_iqr,
        cell.tokens / first,
        later,
        later_iqr,
        cell.batch / later,
        *ratios,
    )
