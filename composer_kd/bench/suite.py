"""The benchmark as a whole."""

from __future__ import annotations

import os
import pathlib
import random
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from composer_kd.bench.backends import BACKENDS, Backend
from composer_kd.bench.candidate import Candidate, Entrant
from composer_kd.bench.devices import DEVICES, Device, cores
from composer_kd.bench.environment import environment
from composer_kd.bench.failures import reason
from composer_kd.bench.plan import plan
from composer_kd.bench.precision import PRECISIONS, copied
from composer_kd.bench.predictions import Predictions, answer, first_samples, merged, size_of
from composer_kd.bench.results import BenchResults, Row, Setting
from composer_kd.bench.setting_run import Limits, Trial
from composer_kd.errors import ConfigError, nearest

__all__ = ['Watcher', 'bench']


class Watcher:
    """Told how a benchmark goes; this one does nothing with it."""

    def start(self, setting: Setting, number: int, of: int) -> None:
        """A setting begins, the first one with the number 1."""

    def say(self, what: str) -> None:
        """What is being done now."""

    def finish(self, results: BenchResults, rows: Sequence[Row]) -> None:
        """A setting is done; ``results`` hold all rows so far."""


def bench(
    candidates: Sequence[Candidate],
    batches: Iterable[Any],
    settings: Sequence[Setting] | None = None,
    *,
    limits: Limits | None = None,
    samples: int | None = None,
    data: str = '',
    command: str = '',
    seed: int = 0,
    backends: Mapping[str, Backend] = BACKENDS,
    watcher: Watcher | None = None,
) -> BenchResults:
    """Times models, and asks each way of running them for the evaluation data.

    In a setting all models take turns in shuffled rounds. Latency is that of single calls, waiting for the device
    before and after each; throughput that of blocks of calls. What was timed is what answers for the data. A model
    that fails in a setting has a row that says why.

    Args:
        candidates: The models, teachers first.
        batches: Evaluation data: tensors, pairs ``(inputs, labels)``, or mappings. The first one is timed, repeated or
            cut to the batch sizes.
        settings: How to run them, as ``plan`` lists it; by default all that this machine has.
        limits: Time for a model in a setting, and the largest batch.
        samples: How many samples to evaluate; None for all.
        data: What they are, in words.
        command: What started this, to be kept with the numbers.
        seed: Shuffles the order in which models take turns.
        backends: The backends by name, yours too.
        watcher: Told how it goes, after each setting with the results so far.

    Returns:
        The rows in the order of the settings, with the machine and the versions.

    Raises:
        ConfigError: If there is nothing to compare, or a model cannot be called with the batches.

    Example:
        >>> from torch import nn
        >>> candidates = [Candidate('large', lambda: nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 3)), 'teacher'),
        ...               Candidate('small', lambda: nn.Linear(4, 3), taught_by=('large',))]
        >>> batches = [(torch.randn(8, 4), torch.randint(3, (8,)))]
        >>> found = bench(candidates, batches, plan(['cpu'], ['eager'], ['fp32'], [1]), limits=Limits(0.05, 2))
        >>> [(row.model, row.parameters, row.output_match, row.failed) for row in found.rows]
        [('large', 515, 1.0, None), ('small', 15, 1.0, None)]
    """
    watcher, limits = watcher or Watcher(), limits or Limits()
    _check(candidates, limits)
    settings = list(plan() if settings is None else settings)
    for setting in settings:
        _check_known('devices', setting.device, DEVICES)
        _check_known('backends', setting.backend, backends)
        _check_known('precisions', setting.precision, PRECISIONS)
    kept = first_samples(batches, samples)
    if not kept or not settings:
        raise ConfigError(f'expected batches and settings, got {len(kept)} batches and {len(settings)} settings')
    began = time.perf_counter()
    names = list(dict.fromkeys(setting.device for setting in settings))
    results = BenchResults([], environment(names), command, data, sum(map(size_of, kept)), _busy())
    with tempfile.TemporaryDirectory(prefix='composer_kd_bench_') as folder:
        watcher.say('building the models')
        entrants = [
            Entrant(candidate, kept, pathlib.Path(folder, str(number))) for number, candidate in enumerate(candidates)
        ]
        taught = _references(entrants, DEVICES[names[-1]], watcher)
        rng = random.Random(seed)
        for number, setting in enumerate(settings, 1):
            watcher.start(setting, number, len(settings))
            trial = Trial(
                setting,
                backends[setting.backend],
                DEVICES[setting.device],
                entrants,
                taught,
                limits,
                rng,
                watcher.say,
            )
            rows = trial.run()
            results.rows += rows
            results.warnings += _doubts(rows)
            results.seconds = time.perf_counter() - began
            watcher.finish(results, rows)
    return results


def _check(candidates: Sequence[Candidate], limits: Limits) -> None:
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f'expected models under different names, got {names}')
    for candidate in candidates:
        for teacher in candidate.taught_by:
            if teacher not in names:
                raise ConfigError(f'{candidate.name}: its teacher {teacher!r} is no candidate{nearest(teacher, names)}')
    if limits.budget <= 0 or limits.max_batch < 1:
        raise ConfigError(f'expected a budget above 0 seconds and batches of 1 or more, got {limits}')


def _check_known(what: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise ConfigError(f'{what}: {name!r} is unknown{nearest(name, known)}')


def _busy() -> list[str]:
    """Says that others want the processor too: timings then tell of them."""
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else 0.0
    if load <= 0.5 * cores():
        return []
    return [
        f'the machine was busy at the start (load {load:.1f} on {cores()} cores): numbers are worse than those of an '
        'idle one, most of all with several threads'
    ]


def _references(entrants: Sequence[Entrant], device: Device, watcher: Watcher) -> dict[str, Predictions]:
    """What each model answers as it was trained, and what the teachers of each student answer together."""
    taught: dict[str, Predictions] = {}
    with device.threads(cores() if device.name == 'cpu' else None), torch.inference_mode():
        modules = {}
        for entrant in entrants:
            watcher.say(f'{entrant.name} answers as it was trained')
            inputs = (entrant.inputs_of(batch) for batch in entrant.batches)
            try:
                modules[entrant.name] = device.complete(copied(entrant.module).to(device.torch_device))
                entrant.answers = answer(modules[entrant.name], inputs, entrant.batches, device.torch_device)
            except Exception as error:  # of any model: its rows say it too
                entrant.notes.append(f'not evaluated as it was trained: {reason(error)}')
        by_name = {entrant.name: entrant for entrant in entrants}
        for entrant in entrants:
            teachers = [by_name[name] for name in entrant.candidate.taught_by]
            if not teachers or any(one.answers is None or not one.candidate.trained for one in teachers):
                continue
            try:
                taught[entrant.name] = _together(teachers, modules, device)
            except Exception as error:  # such as teachers that choose between other classes
                entrant.notes.append(f'no agreement with the mean of its teachers: {reason(error)}')
    device.forget()
    return taught


def _together(teachers: Sequence[Entrant], modules: Mapping[str, Any], device: Device) -> Predictions:
    first = teachers[0]
    if len(teachers) == 1:
        assert first.answers is not None
        return first.answers
    inputs = [(one.inputs_of(batch) for batch in one.batches) for one in teachers]
    return merged([modules[one.name] for one in teachers], inputs, first.batches, device.torch_device)


def _doubts(rows: Sequence[Row]) -> list[str]:
    """Differences that are smaller than the noise."""
    found = []
    by_name = {row.model: row for row in rows}
    for row in rows:
        if row.speed_up is not None and not row.speed_up.is_clear:
            found.append(
                f'{row.setting}: the latencies of {row.model} and {row.speed_up.against} differ by less than the noise '
                f'(ratio {row.speed_up.median:.2f}, quartiles {row.speed_up.low:.2f} to {row.speed_up.high:.2f})'
            )
        other = by_name.get(row.speed_up.against) if row.speed_up is not None else None
        if other is not None:
            found += _doubt_of_throughput(row, other)
    return found


def _doubt_of_throughput(row: Row, other: Row) -> list[str]:
    ours, theirs = row.best_throughput, other.best_throughput
    if ours is None or theirs is None:
        return []
    difference = abs((ours.samples_per_second or 0.0) - (theirs.samples_per_second or 0.0))
    noise = max(ours.iqr or 0.0, theirs.iqr or 0.0)
    if difference > noise:
        return []
    return [
        f'{row.setting}: the best throughputs of {row.model} and {other.model} differ by {difference:,.0f} samples/s, '
        f'the noise is {noise:,.0f}'
    ]
