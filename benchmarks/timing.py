"""How it is measured: variants take turns in shuffled rounds, and only what one round shows is compared."""

from __future__ import annotations

import gc
import itertools
import platform
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import torch

__all__ = ['Mark', 'Run', 'Spread', 'environment', 'interleave', 'median_step']

Mark = tuple[float, float]
"""``perf_counter`` and ``process_time``, in seconds."""


class Run(Protocol):
    """One variant, ready to take steps."""

    losses: list[float]
    """The total loss of each step so far."""

    def steps(self, count: int) -> list[Mark]:
        """Takes ``count`` steps that are measured; tells when the first began, and when each ended."""
        ...

    def close(self) -> None:
        """Lets go of what it holds."""
        ...


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one number over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """The spread of one value per round."""
        low, middle, high = statistics.quantiles(values, n=4, method='inclusive') if len(values) > 1 else values * 3
        return cls(middle, low, high)


def median_step(marks: list[Mark]) -> Mark:
    """The median seconds of a step, on the wall and of the processor.

    A median is not moved by the few steps in which the machine did something else.
    """
    pairs = list(itertools.pairwise(marks))
    wall, cpu = (statistics.median(after[clock] - before[clock] for before, after in pairs) for clock in (0, 1))
    return wall, cpu


def interleave(
    runs: Mapping[str, Run], rounds: int, steps: int, seed: int, progress: Callable[[], None] = lambda: None
) -> dict[str, list[Mark]]:
    """Lets the variants take turns.

    Args:
        runs: The variants by name.
        rounds: How often each has its turn.
        steps: Steps in a turn that count.
        seed: Of the order, which differs from round to round.
        progress: Called after each round.

    Returns:
        For each variant the median step of each round.
    """
    order, chance = list(runs), random.Random(seed)
    found: dict[str, list[Mark]] = {name: [] for name in order}
    # What is there by now stays: without it, collecting between the rounds is quick.
    gc.collect()
    gc.freeze()
    try:
        for _ in range(rounds):
            chance.shuffle(order)
            gc.collect()
            gc.disable()
            for name in order:
                found[name].append(median_step(runs[name].steps(steps)))
            gc.enable()
            progress()
    finally:
        gc.enable()
        gc.unfreeze()
    return found


def environment() -> dict[str, Any]:
    """What a reader needs to know of the machine, without naming it."""
    facts = {'processor': _processor(), 'python': platform.python_version()}
    for package in ('torch', 'mosaicml', 'transformers', 'torchdistill'):
        try:
            facts[package] = version(package)
        except ModuleNotFoundError:
            facts[package] = 'not installed'
    return {**facts, 'capability': torch.backends.cpu.get_cpu_capability()}


def _processor() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as lines:
            return next(line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
