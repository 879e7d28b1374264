"""Loads, times and evaluates all models in one setting."""

from __future__ import annotations

import random
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from composer_kd.bench.backends import Backend, Call
from composer_kd.bench.batch_sizes import Sweep, sweep
from composer_kd.bench.built_model import BuiltModel
from composer_kd.bench.devices import Device
from composer_kd.bench.energy import meter_for
from composer_kd.bench.failures import reason
from composer_kd.bench.predictions import accuracy, answer, same
from composer_kd.bench.reading import Reader, read_cells
from composer_kd.bench.references import Reference
from composer_kd.bench.results import Row, Setting, Throughput
from composer_kd.bench.saved_forms import Loaded
from composer_kd.bench.texts import TextPlan
from composer_kd.bench.timing import Rounds, Run, as_latency, speed_up, time_calls, warm_up
from composer_kd.bench.writing import Writer, write_cells
from composer_kd.presentation.roles import TEACHER

__all__ = ['Limits', 'SettingRun']

LATENCY_SHARE, THROUGHPUT_SHARE = 0.3, 0.7
WARM_UP_SHARE = 0.1
FEW_CALLS = 100
NO_TEXTS = TextPlan()
ENERGY_SECONDS = 1.0
"""The duration of the energy measurement. Counters update a thousand (RAPL) or ten times (NVML) a second."""


@dataclass(frozen=True)
class Limits:
    """Limits of a benchmark.

    Args:
        budget: Seconds of timing per model and setting, in addition to loading, exporting, compiling and evaluating;
            for a model of texts as many again for texts of several lengths, and for one that writes, for writing.
        max_batch: The largest batch size.
    """

    budget: float = 2.0
    max_batch: int = 4096


class SettingRun:
    """Runs all models in one setting.

    Args:
        setting: The setting.
        backend: Its backend.
        device: Its device.
        models: The models.
        references: The reference predictions of each model, by name.
        limits: The limits of the benchmark.
        rng: Shuffles the order in which models take turns.
        say: Called with a description of each step.
        plan: The lengths and batch sizes of texts.
    """

    def __init__(
        self,
        setting: Setting,
        backend: Backend,
        device: Device,
        models: Sequence[BuiltModel],
        references: Mapping[str, Reference],
        limits: Limits,
        rng: random.Random,
        say: Callable[[str], None],
        plan: TextPlan = NO_TEXTS,
    ) -> None:
        self.setting, self.backend, self.device = setting, backend, device
        self.models = {model.name: model for model in models}
        self.references, self.limits = references, limits
        self.rng, self.say, self.plan = rng, say, plan
        self.rows = {model.name: model.row(setting) for model in models}
        self.loaded: dict[str, Loaded] = {}

    def run(self) -> list[Row]:
        """Loads, times and evaluates the models.

        Returns:
            A row for each model.
        """
        with warnings.catch_warnings(), self.device.threads(self.setting.threads), self.backend.session():
            warnings.simplefilter('ignore')  # compilers and exporters warn about themselves
            for model in self.models.values():
                self._load(model)
            with torch.inference_mode():
                self._time_latency()
                self._time_throughput()
                self._time_reading()
                self._time_writing()
                for model in self.models.values():
                    if model.name in self.loaded:
                        self._evaluate(model)
            self.loaded.clear()
        self.device.forget()
        return list(self.rows.values())

    def _load(self, model: BuiltModel) -> None:
        row = self.rows[model.name]
        self.say(f'preparing {model.name}')
        try:
            self.backend.require()
            loaded = model.forms.load(self.setting, self.backend, self.device)
        except Exception as error:  # of any type; the other models continue
            self._drop(model.name, reason(error))
            return
        row.file_bytes, row.load_seconds = loaded.file_bytes, loaded.seconds
        row.notes += loaded.notes
        self.loaded[model.name] = loaded

    def _drop(self, name: str, failed: str) -> None:
        self.rows[name].failed = failed
        self.loaded.pop(name, None)
        self.device.forget()

    def _time_latency(self) -> None:
        self.say('latency')
        runs, estimates = self._warmed_up()
        if not runs:
            return
        seconds = LATENCY_SHARE * self.limits.budget
        found, failed = time_calls(runs, self.device.clock, seconds, estimates, self.rng)
        for name, failure in failed.items():
            self._drop(name, failure)
        for name in found:
            self._note_latency(name, found)

    def _warmed_up(self) -> tuple[dict[str, Run], dict[str, float]]:
        """Returns for each model its call at batch size 1 and the estimated seconds of a call."""
        runs, estimates = {}, {}
        for name in list(self.loaded):
            try:
                run = self._at(self.models[name], 1)
                estimates[name] = warm_up(run, self.device.clock, WARM_UP_SHARE * self.limits.budget)
                runs[name] = run
            except Exception as error:  # runtimes raise errors of any type
                self._drop(name, reason(error))
        return runs, estimates

    def _note_latency(self, name: str, found: Mapping[str, Rounds]) -> None:
        row, teacher = self.rows[name], self._teacher_of(name)
        row.latency = as_latency(found[name])
        if row.latency.calls < FEW_CALLS:
            row.notes.append(f'percentiles of {row.latency.calls} calls only')
        if teacher in found:
            row.speed_up = speed_up(teacher, found[teacher], found[name])

    def _at(self, model: BuiltModel, size: int, call: Call | None = None) -> Callable[[], Any]:
        call = call or self.loaded[model.name].call
        tensors = tuple(tensor.to(self.device.torch_device) for tensor in model.inputs(size))
        return lambda: call(*tensors)

    def _teacher_of(self, name: str) -> str:
        """The model's first teacher; for a student trained alone that of the benchmark; for a teacher ``''``."""
        candidate = self.models[name].candidate
        if candidate.role == TEACHER:
            return ''
        teachers = [other for other, model in self.models.items() if model.candidate.role == TEACHER]
        return next(iter([*(one for one in candidate.taught_by if one in teachers), *teachers]), '')

    def _time_throughput(self) -> None:
        self.say('throughput')
        seconds = THROUGHPUT_SHARE * self.limits.budget
        sweeps = {
            name: Sweep(loaded.call, self.models[name].inputs, self.device, seconds)
            for name, loaded in self.loaded.items()
        }
        sweep(sweeps, self.device, seconds, self.limits.max_batch, self.rng)
        for name, one in sweeps.items():
            row = self.rows[name]
            row.throughput = [self._with_tokens(self.models[name], found) for found in one.found]
            row.notes += [one.note] if one.note else []
            if row.best_throughput is not None:
                self._measure_costs(self.models[name], row.best_throughput.batch)

    def _with_tokens(self, model: BuiltModel, found: Throughput) -> Throughput:
        tokens, positions = model.tokens(found.batch)
        return replace(found, tokens=tokens, positions=positions)

    def _time_reading(self) -> None:
        recorded = self.backend.recorded
        readers = {
            name: Reader(loaded.call, model.texts, model.inference if recorded else None, self._teacher_of(name))
            for name, loaded in self.loaded.items()
            if (model := self.models[name]).texts is not None
        }
        if not readers or not self.plan.texts:
            return
        self.say('texts of several lengths')
        precision, budget = self.setting.precision, self.limits.budget
        found = read_cells(readers, self.plan.texts, self.device, budget, precision, self.rng)
        for name, speeds in found.items():
            self.rows[name].texts = speeds

    def _time_writing(self) -> None:
        if not self.plan.prompts:
            return
        writers = {}
        for name, loaded in self.loaded.items():
            texts = self.models[name].texts
            if texts is None or not texts.writes:
                continue
            try:
                writers[name] = Writer(self.backend.writer(loaded.call), texts, self._teacher_of(name))
            except Exception as error:  # backends of users raise errors of any type
                self.rows[name].notes.append(f'writing is not timed: {reason(error)}')
        if not writers:
            return
        self.say('writing')
        found = write_cells(writers, self.plan, self.device, self.limits.budget, self.rng)
        for name, speeds in found.items():
            self.rows[name].generation = speeds

    def _measure_costs(self, model: BuiltModel, size: int) -> None:
        """Measures memory and energy at the batch size of the best throughput."""
        row = self.rows[model.name]
        try:
            row.peak_memory_bytes = self._peak(model, size)
            row.energy_joules = self._energy(row, self._at(model, size), size)
        except Exception as error:  # runtimes raise errors of any type
            row.notes.append(f'memory and energy not measured: {reason(error)}')

    def _peak(self, model: BuiltModel, size: int) -> int | None:
        if self.device.name != 'cpu' and not self.backend.of_torch:
            return None
        run = self._at(model, size, self.backend.forgetful(self.loaded[model.name].call))
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

    def _evaluate(self, model: BuiltModel) -> None:
        row, candidate, reference = self.rows[model.name], model.candidate, self.references[model.name]
        self.say(f'evaluating {model.name}')
        try:
            inputs = (model.inference.inputs_of(batch) for batch in model.batches)
            found = answer(self.loaded[model.name].call, inputs, model.batches, self.device.torch_device, model.form)
        except Exception as error:  # it ran on the samples that were timed, but fails on others
            row.notes.append(f'not evaluated: {reason(error)}')
            return
        if not found.finite:
            row.notes.append('answers that are no numbers (NaN or infinite)')
        if reference.own is not None:
            row.output_match = same(found, reference.own, model.batches, model.form)
        if not candidate.trained:
            return
        row.accuracy = accuracy(found, model.batches, model.form)
        if candidate.role == TEACHER:
            row.agreement = row.output_match
        elif reference.teachers is not None:
            row.agreement = same(found, reference.teachers, model.batches, model.form)
