"""All models in one setting: loaded, timed in turns, asked for the evaluation data."""

from __future__ import annotations

import random
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from composer_kd.bench.backends import Backend, Call
from composer_kd.bench.batch_sizes import Sweep, sweep
from composer_kd.bench.candidate import Entrant, Loaded
from composer_kd.bench.devices import Device
from composer_kd.bench.energy import meter_for
from composer_kd.bench.failures import reason
from composer_kd.bench.predictions import Predictions, accuracy, answer, same
from composer_kd.bench.results import Row, Setting
from composer_kd.bench.timing import as_latency, speed_up, time_calls, warm_up
from composer_kd.presentation.roles import TEACHER

__all__ = ['Limits', 'Trial']

LATENCY_SHARE, THROUGHPUT_SHARE = 0.3, 0.7
WARM_UP_SHARE = 0.1
FEW_CALLS = 100
ENERGY_SECONDS = 1.0
"""Meters are read a thousand (RAPL) or ten times (NVML) a second."""


@dataclass(frozen=True)
class Limits:
    """How far to go.

    Args:
        budget: Seconds of timing for a model in a setting. Loading, exporting, compiling and evaluating come on top.
        max_batch: The largest batch.
    """

    budget: float = 2.0
    max_batch: int = 4096


class Trial:
    """One setting.

    Args:
        setting: How the models run.
        backend: Its backend.
        device: Its device.
        entrants: The models.
        taught: For each student with a teacher among them, what its teachers answer; under its name.
        limits: How far to go.
        rng: Shuffles the order in which models take turns.
        say: Told what is being done.
    """

    def __init__(
        self,
        setting: Setting,
        backend: Backend,
        device: Device,
        entrants: Sequence[Entrant],
        taught: dict[str, Predictions],
        limits: Limits,
        rng: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self.setting, self.backend, self.device = setting, backend, device
        self.entrants, self.taught, self.limits = entrants, taught, limits
        self.rng, self.say = rng, say
        self.rows = {entrant.name: entrant.row(setting) for entrant in entrants}
        self.loaded: dict[str, Loaded] = {}

    def run(self) -> list[Row]:
        """Measures.

        Returns:
            A row for each model.
        """
        with warnings.catch_warnings(), self.device.threads(self.setting.threads), self.backend.session():
            warnings.simplefilter('ignore')  # compilers and exporters remark on themselves
            for entrant in self.entrants:
                self._load(entrant)
            with torch.inference_mode():
                self._time_latency()
                self._time_throughput()
                for entrant in self.entrants:
                    if entrant.name in self.loaded:
                        self._evaluate(entrant)
            self.loaded.clear()
        self.device.forget()
        return list(self.rows.values())

    def _load(self, entrant: Entrant) -> None:
        row = self.rows[entrant.name]
        self.say(f'preparing {entrant.name}')
        try:
            self.backend.require()
            loaded = entrant.load(self.setting, self.backend, self.device)
        except Exception as error:  # of any exporter, compiler or runtime: the other models go on
            self._drop(entrant.name, reason(error))
            return
        row.file_bytes, row.load_seconds = loaded.file_bytes, loaded.seconds
        row.notes += loaded.notes
        self.loaded[entrant.name] = loaded

    def _drop(self, name: str, failed: str) -> None:
        self.rows[name].failed = failed
        self.loaded.pop(name, None)
        self.device.forget()

    def _time_latency(self) -> None:
        self.say('latency')
        seconds = LATENCY_SHARE * self.limits.budget
        runs, estimates = {}, {}
        for entrant in self.entrants:
            if entrant.name not in self.loaded:
                continue
            try:
                run = self._at(entrant, 1)
                estimates[entrant.name] = warm_up(run, self.device.clock, WARM_UP_SHARE * self.limits.budget)
                runs[entrant.name] = run
            except Exception as error:  # of any runtime
                self._drop(entrant.name, reason(error))
        if not runs:
            return
        found, failed = time_calls(runs, self.device.clock, seconds, estimates, self.rng)
        for name, failure in failed.items():
            self._drop(name, failure)
        for name, rounds in found.items():
            row = self.rows[name]
            row.latency = as_latency(rounds)
            if row.latency.calls < FEW_CALLS:
                row.notes.append(f'percentiles of {row.latency.calls} calls only')
            teacher = self._teacher_of(name)
            if teacher in found:
                row.speed_up = speed_up(teacher, found[teacher], rounds)

    def _at(self, entrant: Entrant, size: int, call: Call | None = None) -> Callable[[], Any]:
        call = call or self.loaded[entrant.name].call
        tensors = tuple(tensor.to(self.device.torch_device) for tensor in entrant.inputs(size))
        return lambda: call(*tensors)

    def _teacher_of(self, name: str) -> str:
        """Its own first teacher, or for a student that was trained alone the first one of the comparison."""
        entrant = next(one for one in self.entrants if one.name == name)
        if entrant.candidate.role == TEACHER:
            return ''
        teachers = [one.name for one in self.entrants if one.candidate.role == TEACHER]
        return next(iter([*(one for one in entrant.candidate.taught_by if one in teachers), *teachers]), '')

    def _time_throughput(self) -> None:
        self.say('throughput')
        seconds = THROUGHPUT_SHARE * self.limits.budget
        sweeps = {
            entrant.name: Sweep(self.loaded[entrant.name].call, entrant.inputs, self.device, seconds)
            for entrant in self.entrants
            if entrant.name in self.loaded
        }
        sweep(sweeps, self.device, seconds, self.limits.max_batch, self.rng)
        for name, one in sweeps.items():
            row = self.rows[name]
            row.throughput = one.found
            row.notes += [one.note] if one.note else []
            best = row.best_throughput
            if best is not None:
                entrant = next(one for one in self.entrants if one.name == name)
                try:
                    row.peak_memory_bytes = self._peak(entrant, best.batch)
                    row.energy_joules = self._energy(row, self._at(entrant, best.batch), best.batch)
                except Exception as error:  # of any runtime
                    row.notes.append(f'memory and energy not measured: {reason(error)}')

    def _peak(self, entrant: Entrant, size: int) -> int | None:
        if self.device.name != 'cpu' and not self.backend.of_torch:
            return None
        run = self._at(entrant, size, self.backend.forgetful(self.loaded[entrant.name].call))
        run()
        known = [one for one in [self.device.growth(run) for _ in range(3)] if one is not None]
        return int(statistics.median(known)) if known else None

    def _energy(self, row: Row, run: Callable[[], Any], batch: int) -> float | None:
        meter = meter_for(self.device.torch_device)
        if meter is None:
            return None
        try:
            self.device.synchronize()
            meter.start()
            calls, end = 0, time.perf_counter() + ENERGY_SECONDS
            while time.perf_counter() < end:
                run()
                calls += 1
                self.device.synchronize()
            joules = meter.joules()
        except OSError as error:
            row.notes.append(f'energy not measured: {error}')
            return None
        if meter.whole_machine:
            row.notes.append(f'energy is that of the whole machine ({meter.source})')
        return joules / (calls * batch)

    def _evaluate(self, entrant: Entrant) -> None:
        row, candidate = self.rows[entrant.name], entrant.candidate
        self.say(f'evaluating {entrant.name}')
        try:
            inputs = (entrant.inputs_of(batch) for batch in entrant.batches)
            found = answer(self.loaded[entrant.name].call, inputs, entrant.batches, self.device.torch_device)
        except Exception as error:  # it answered when it was timed, and does not for other samples
            row.notes.append(f'not evaluated: {reason(error)}')
            return
        if not found.finite:
            row.notes.append('answers that are no numbers (NaN or infinite)')
        shift = candidate.shift_labels
        if entrant.answers is not None:
            row.output_match = same(found, entrant.answers, entrant.batches, shift)
        if not candidate.trained:
            return
        row.accuracy = accuracy(found, entrant.batches, shift)
        if candidate.role == TEACHER:
            row.agreement = row.output_match
        elif entrant.name in self.taught:
            row.agreement = same(found, self.taught[entrant.name], entrant.batches, shift)
