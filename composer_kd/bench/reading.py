"""Measures tokens per second at several lengths and batch sizes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from composer_kd.bench.backends import Call
from composer_kd.bench.devices import Device
from composer_kd.bench.failures import reason
from composer_kd.bench.guard import Guard
from composer_kd.bench.text_results import TextSpeed
from composer_kd.bench.texts import Cell, Texts
from composer_kd.bench.timing import FEWEST_ROUNDS, ratio_of_rounds, spread, time_blocks

__all__ = ['Reader', 'read_cells']

TOLERANCES = {'fp32': 0.005, 'bf16': 0.5, 'fp16': 0.5}
"""By how much of the largest logit an answer may differ from eager fp32; more means that the graph was made for another
length. No other precision (int8) is checked: its layers are the model's own."""


@dataclass(frozen=True)
class Reader:
    """A model that reads texts, in one setting.

    Args:
        call: Takes tensors on the device and returns logits.
        texts: Its texts.
        eager: The same model in eager fp32 on the CPU, to compare answers with; ``None`` where the model itself runs.
        teacher: The name of its teacher; ``''`` for none.
    """

    call: Call
    texts: Texts
    eager: nn.Module | None
    teacher: str


def read_cells(
    readers: Mapping[str, Reader],
    cells: Sequence[Cell],
    device: Device,
    seconds: float,
    precision: str,
    rng: random.Random,
) -> dict[str, list[TextSpeed]]:
    """Times all models at each length and batch size, in turns.

    Args:
        readers: The models, by name.
        cells: The lengths and batch sizes, those with the fewest tokens first.
        device: The device that they run on.
        seconds: The time for each model.
        precision: Their precision.
        rng: Shuffles the order in which models take turns.

    Returns:
        For each model its speed in each cell, in the order of the cells; where it was not measured, with the reason.
    """
    found: dict[str, list[TextSpeed]] = {name: [] for name in readers}
    guards = {name: Guard(device, seconds, cells, FEWEST_ROUNDS + 1) for name in readers}
    share = seconds / len(cells)
    wrong: dict[tuple[str, int], str | None] = {}
    for cell in cells:
        runs, estimates = {}, {}
        failed: dict[str, str] = {}
        for name, reader in readers.items():
            refused = _too_long(reader.texts, cell) or guards[name].refuses(cell)
            if refused is None:
                of_length = (name, cell.length)
                if of_length not in wrong:
                    wrong[of_length] = _wrong_at(reader, cell.length, device, precision)
                refused = wrong[of_length]
            if refused is None:
                try:
                    runs[name] = _call_of(reader, cell, device)
                    estimates[name] = guards[name].first_calls(cell, runs[name], share / 4, calls=2)
                    continue
                except Exception as error:  # runtimes raise errors of any type
                    refused = reason(error)
                    runs.pop(name, None)
                    guards[name].fail(cell, refused)
            failed[name] = refused
        timed, broken = time_blocks(runs, device.clock, share, estimates, rng) if runs else ({}, {})
        for name, why in broken.items():
            guards[name].fail(cell, why)
        for name in readers:
            if name not in timed:
                found[name].append(TextSpeed(cell.length, cell.batch, None, failed={**failed, **broken}[name]))
                continue
            guards[name].spend(timed[name].spent)
            rates = [cell.tokens / median for median in timed[name].medians]
            teacher = readers[name].teacher
            ratio = ratio_of_rounds(teacher, timed[teacher].medians, timed[name].medians) if teacher in timed else None
            found[name].append(TextSpeed(cell.length, cell.batch, *spread(rates), ratio))
        runs.clear()
    device.forget()
    return found


def _too_long(texts: Texts, cell: Cell) -> str | None:
    return None if texts.most is None or cell.length <= texts.most else f'it takes {texts.most} tokens at most'


def _call_of(reader: Reader, cell: Cell, device: Device) -> Callable[[], Any]:
    tensors = tuple(tensor.to(device.torch_device) for tensor in reader.texts.inputs(cell))
    return lambda: reader.call(*tensors)


def _wrong_at(reader: Reader, length: int, device: Device, precision: str) -> str | None:
    """Why the answer to one text of this length is no answer of the model: a graph may have been made for another."""
    if reader.eager is None:
        return None
    inputs = reader.texts.inputs(Cell(length, 1))
    try:
        here = reader.call(*(tensor.to(device.torch_device) for tensor in inputs)).float().cpu()
    except Exception as error:  # runtimes raise errors of any type
        return reason(error)
    eager = reader.eager(*inputs)
    if here.shape != eager.shape:
        return f'at this length it returns {tuple(here.shape)}, in eager mode {tuple(eager.shape)}'
    difference, largest = (torch.nan_to_num(one).abs().max().item() for one in (here - eager, eager))
    if precision in TOLERANCES and difference > TOLERANCES[precision] * largest:
        return f'at this length its logits differ by {100 * difference / largest:.0f} % from eager fp32'
    return None
