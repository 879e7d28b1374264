"""Measures throughput at growing batch sizes, until memory or time runs out or throughput stops rising."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from composer_kd.bench.backends import Call
from composer_kd.bench.devices import Device
from composer_kd.bench.failures import OUT_OF_MEMORY, reason
from composer_kd.bench.results import Throughput
from composer_kd.bench.timing import FEWEST_ROUNDS, Blocks, spread, time_blocks, warm_up
from composer_kd.presentation.units import bytes_text

__all__ = ['Sweep', 'sweep']

SIZES_PLANNED = 8
"""The number of batch sizes that the time is divided by."""
RISE = 1.03
FLAT = 2
"""A sweep ends after this many sizes in a row without a rise. A size counts as a rise if the throughput of its best
round exceeds that of all sizes before, or that of the previous size, by the factor ``RISE``: a backend may have a
special case for one sample, so that two samples are slower and four as fast."""
SPARE = 0.8
"""The share of free memory that a batch may take, because a system without free memory kills the process."""


class Sweep:
    """The throughput of one model at growing batch sizes.

    Args:
        call: The model: takes tensors on the device and returns logits.
        inputs: Takes a batch size and returns input tensors on the CPU.
        device: The device that the model runs on.
        seconds: The time for all sizes together.

    Attributes:
        found: The results, in rising order of the batch size.
        note: A remark if the time ended while throughput was still rising.
        done: Whether the sweep has ended.
        estimate: Seconds of a call at the current batch size, from the warm-up.
    """

    def __init__(self, call: Call, inputs: Callable[[int], tuple[Tensor, ...]], device: Device, seconds: float) -> None:
        self.found: list[Throughput] = []
        self.note: str | None = None
        self.done = False
        self._call, self._inputs, self._device = call, inputs, device
        self._left, self._most, self._last, self._flat = seconds, 0.0, 0.0, 0
        self._growth: int | None = None
        self.estimate = 0.0

    def begin(self, size: int, seconds: float) -> Callable[[], Any] | None:
        """Prepares a batch and warms up.

        Args:
            size: The batch size.
            seconds: The time for the warm-up.

        Returns:
            The call to time; ``None`` if the sweep has ended.
        """
        # Twice the size takes up to twice the time, and each round makes at least two calls.
        if self.found and 2 * self.estimate * 2 * FEWEST_ROUNDS > self._left:
            self._stop(size, None)
            return None
        free = self._device.free_bytes()
        if free is not None and self._growth is not None and 2 * self._growth > SPARE * free:
            wanted = f'would take about {bytes_text(2 * self._growth)} of {bytes_text(free)}'
            self._stop(size, f'out of memory: {wanted}')
            return None
        try:
            tensors = tuple(tensor.to(self._device.torch_device) for tensor in self._inputs(size))

            def run() -> Any:
                return self._call(*tensors)

            self._growth = self._device.growth(run)
            self.estimate = warm_up(run, self._device.clock, seconds, calls=2)
            return run
        except Exception as error:  # runtimes raise errors of any type
            failed = reason(error)
        self.fail(size, failed)
        return None

    def end(self, size: int, blocks: Blocks) -> None:
        """Adds the timing of a batch size, and ends the sweep if throughput has stopped rising."""
        rates = [size / median for median in blocks.medians]
        self.found.append(Throughput(size, *spread(rates)))
        self._left -= blocks.spent
        # The best round is the one least disturbed by other processes: a short disturbance must not end the sweep.
        best = max(rates)
        self._flat = 0 if best > RISE * min(self._most, self._last) else self._flat + 1
        self._most, self._last = max(self._most, best), best
        self.done = self._flat >= FLAT

    def fail(self, size: int, failed: str) -> None:
        """Adds the reason of a failure at a batch size, and ends the sweep."""
        self._stop(size, failed)
        if failed == OUT_OF_MEMORY:
            self._device.forget()

    def _stop(self, size: int, failed: str | None) -> None:
        self.done = True
        if failed is not None:
            self.found.append(Throughput(size, None, failed=failed))
        elif not self._flat:
            self.note = f'throughput still rose at batch {self.found[-1].batch}, where the budget of time ended'


def sweep(sweeps: Mapping[str, Sweep], device: Device, seconds: float, largest: int, rng: random.Random) -> None:
    """Times all models at batch sizes 1, 2, 4 and so on; the models take turns at each size.

    Args:
        sweeps: The sweep of each model, by name; the results are added to it.
        device: The device that the models run on.
        seconds: The time for each model.
        largest: The largest batch size.
        rng: Shuffles the order of the models.
    """
    size, share = 1, seconds / SIZES_PLANNED
    while size <= largest:
        runs = {}
        for name, one in sweeps.items():
            run = None if one.done else one.begin(size, share / 4)
            if run is not None:
                runs[name] = run
        if not runs:
            break
        found, failed = time_blocks(runs, device.clock, share, {name: sweeps[name].estimate for name in runs}, rng)
        for name, why in failed.items():
            sweeps[name].fail(size, why)
        for name, blocks in found.items():
            sweeps[name].end(size, blocks)
        runs.clear()
        size *= 2
    device.forget()
