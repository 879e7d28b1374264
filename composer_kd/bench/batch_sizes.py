"""Throughput at growing batch sizes, until memory, time or the gain comes to an end."""

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
"""The time is divided so that this many sizes fit in."""
RISE = 1.03
FLAT = 2
"""A model is done after so many sizes in a row without a round that was better, times ``RISE``, than all before or than
the size before: a backend may have one sample to itself, so that two are slower, and four as quick."""
SPARE = 0.8
"""Share of the free memory of the machine that may be asked for: a system that has too little kills the process."""


class Sweep:
    """The sweep of one model.

    Args:
        call: The model: tensors on the device in, logits out.
        inputs: Makes a batch of a size, on the CPU.
        device: Where it runs.
        seconds: For all sizes together.
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
        """Makes a batch and warms up.

        Args:
            size: Samples of a batch.
            seconds: To warm up.

        Returns:
            What to time, or None: then the sweep of this model is over.
        """
        # Twice the size takes up to twice the time, in two calls of each round at least.
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
        except Exception as error:  # of any runtime
            failed = reason(error)
        self.fail(size, failed)
        return None

    def end(self, size: int, blocks: Blocks) -> None:
        """Notes what was timed."""
        rates = [size / median for median in blocks.medians]
        self.found.append(Throughput(size, *spread(rates)))
        self._left -= blocks.spent
        # The best round is the one that others disturbed least: a busy moment must not end the sweep.
        best = max(rates)
        self._flat = 0 if best > RISE * min(self._most, self._last) else self._flat + 1
        self._most, self._last = max(self._most, best), best
        self.done = self._flat >= FLAT

    def fail(self, size: int, failed: str) -> None:
        """Notes why there is no number for a size; none is tried beyond it."""
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
    """Lets models take turns at each size: 1, 2, 4 and so on.

    Args:
        sweeps: One for each model, by name; the results are in them.
        device: Where they run.
        seconds: For each model.
        largest: The largest batch.
        rng: Shuffles the order.
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
