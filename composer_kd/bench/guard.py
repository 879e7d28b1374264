"""Foresees which lengths and batch sizes a model has no time, no memory or no room for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from composer_kd.bench.devices import Device
from composer_kd.bench.failures import OUT_OF_MEMORY
from composer_kd.bench.texts import Cell
from composer_kd.bench.timing import warm_up
from composer_kd.errors import ConfigError
from composer_kd.presentation.units import bytes_text

__all__ = ['Guard']

BEYOND = 'beyond the budget of time'

SPARE = 0.8
"""The share of free memory that a batch may take, because a system without free memory kills the process."""


class Guard:
    """Keeps what one model has taken so far, and foresees from it what more tokens would take.

    Each length is measured in the smallest batch if a call takes less than the budget; the others as far as it goes.

    Args:
        device: The device that the model runs on.
        seconds: The time for all cells together.
        cells: The cells; each has its share of the time, also after others have taken more than theirs.
        calls: The calls that a cell takes at least, after the first ones.
    """

    def __init__(self, device: Device, seconds: float, cells: Sequence[Cell], calls: int) -> None:
        self._device, self._left, self._calls = device, seconds, calls
        self._seconds, self._share = seconds, seconds / len(cells)
        self._least = min(cell.batch for cell in cells)
        self._taken: list[tuple[Cell, float, int | None]] = []
        self._too_large: list[Cell] = []

    def refuses(self, cell: Cell) -> str | None:
        """Why a cell is not to be measured; ``None`` if it may be. The first one always may."""
        if any(cell.length >= other.length and cell.batch >= other.batch for other in self._too_large):
            return OUT_OF_MEMORY
        if not self._taken:
            return None
        seconds = min(seconds * _more(other, cell, 1) for other, seconds, _ in self._taken)
        if seconds > (self._seconds if cell.batch == self._least else self._allowed):
            return BEYOND
        # Attention takes memory by the square of the length.
        known = [growth * _more(other, cell, 2) for other, _, growth in self._taken if growth is not None]
        free = self._device.free_bytes()
        if known and free is not None and min(known) > SPARE * free:
            return f'{OUT_OF_MEMORY}: would take about {bytes_text(min(known))} of {bytes_text(free)}'
        return None

    def first_calls(self, cell: Cell, run: Callable[[], Any], seconds: float, calls: int) -> float:
        """Makes the first calls of a cell, and notes what they took.

        Args:
            cell: The cell.
            run: The call.
            seconds: The time for a warm-up after the first call.
            calls: The calls of the warm-up, if the time suffices.

        Returns:
            The seconds of the fastest call.

        Raises:
            ConfigError: If there is no time for the calls that a larger batch takes.
        """
        growth = self._device.growth(run)
        began = time.perf_counter()  # the first call may have compiled
        fastest = warm_up(run, self._device.clock, seconds, calls)
        self._taken.append((cell, fastest, growth))
        self._left -= time.perf_counter() - began
        if cell.batch != self._least and self._calls * fastest > self._allowed:
            raise ConfigError(BEYOND)
        return fastest

    @property
    def _allowed(self) -> float:
        return max(self._left, self._share)

    def spend(self, seconds: float) -> None:
        """Notes the time that the measurement of a cell took."""
        self._left -= seconds

    def fail(self, cell: Cell, failed: str) -> None:
        """Notes a failure; after one for lack of memory, larger cells are refused."""
        if failed == OUT_OF_MEMORY:
            self._too_large.append(cell)
            self._device.forget()


def _more(measured: Cell, wanted: Cell, power: int) -> float:
    """By which factor a cell takes more than a measured one, at most: linear in the batch, a power of the length."""
    return max(1.0, wanted.batch / measured.batch) * max(1.0, wanted.length / measured.length) ** power
