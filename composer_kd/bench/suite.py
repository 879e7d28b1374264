"""The benchmark: runs all candidates in each setting and collects the results."""

from __future__ import annotations

import pathlib
import random
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from composer_kd.bench.backends import BACKENDS, Backend
from composer_kd.bench.built_model import BuiltModel
from composer_kd.bench.candidate import Candidate
from composer_kd.bench.devices import DEVICES
from composer_kd.bench.doubts import busy, doubts
from composer_kd.bench.environment import environment
from composer_kd.bench.plan import plan
from composer_kd.bench.precision import PRECISIONS
from composer_kd.bench.predictions import first_samples, size_of
from composer_kd.bench.references import references
from composer_kd.bench.results import BenchResults, Row, Setting
from composer_kd.bench.setting_run import Limits, SettingRun
from composer_kd.bench.texts import TextOptions, text_plan
from composer_kd.errors import ConfigError, nearest

__all__ = ['Watcher', 'bench']


class Watcher:
    """Receives the progress of a benchmark. This base class ignores it; a subclass overrides the methods it needs."""

    def start(self, setting: Setting, number: int, of: int) -> None:
        """Called at the start of a setting. ``number`` counts from 1 to ``of``."""

    def say(self, what: str) -> None:
        """Called with a description of the current step."""

    def finish(self, results: BenchResults, rows: Sequence[Row]) -> None:
        """Called at the end of a setting, with its rows; ``results`` contains all rows so far."""


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
    texts: TextOptions | None = None,
) -> BenchResults:
    """Measures speed, memory, energy and accuracy of models in several settings.

    In each setting the models take turns in shuffled rounds. Latency is the time of single calls, with the device
    synchronised before and after each; throughput is measured on blocks of calls. The evaluation runs the same loaded
    models that were timed. If a model fails in a setting, its row gives the reason.

    Args:
        candidates: The models, teachers first.
        batches: The evaluation data: tensors, pairs ``(inputs, labels)``, or mappings. Samples of the first batch,
            repeated or truncated to each batch size, are used for timing.
        settings: The settings, as :func:`plan` lists them; by default all default settings of this machine.
        limits: The time per model and setting, and the largest batch size.
        samples: The number of samples to evaluate; ``None`` for all.
        data: A description of the data, stored with the results.
        command: The command that started the benchmark, stored with the results.
        seed: The seed of the order in which models take turns.
        backends: All backends by name, including your own.
        watcher: Receives the progress and, after each setting, the results so far.
        texts: For models of texts, the lengths, batch sizes and new tokens that are timed too.

    Returns:
        The rows in the order of the settings, with a description of the machine and the versions.

    Raises:
        ConfigError: If candidates, batches or settings are missing or invalid, or a model cannot be called with the
            batches.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> candidates = [Candidate('large', lambda: nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 3)), 'teacher'),
        ...               Candidate('small', lambda: nn.Linear(4, 3), taught_by=('large',))]
        >>> batches = [(torch.randn(8, 4), torch.randint(3, (8,)))]
        >>> found = bench(candidates, batches, plan(['cpu'], ['eager'], ['fp32'], [1]), limits=Limits(0.05, 2))
        >>> [(row.model, row.parameters, row.output_match, row.failed) for row in found.rows]
        [('large', 515, 1.0, None), ('small', 15, 1.0, None)]
    """
    watcher, limits = watcher or Watcher(), limits or Limits()
    _check_candidates(candidates, limits)
    settings = list(plan() if settings is None else settings)
    _check_settings(settings, backends)
    kept = first_samples(batches, samples)
    if not kept or not settings:
        raise ConfigError(f'expected batches and settings, got {len(kept)} batches and {len(settings)} settings')
    began = time.perf_counter()
    names = list(dict.fromkeys(setting.device for setting in settings))
    found = busy()
    results = BenchResults([], environment(names), command, data, sum(map(size_of, kept)), found)
    with tempfile.TemporaryDirectory(prefix='composer_kd_bench_') as folder:
        watcher.say('building the models')
        models = [BuiltModel(one, kept, pathlib.Path(folder, str(number))) for number, one in enumerate(candidates)]
        cells = text_plan([model.texts for model in models], texts or TextOptions())
        known = references(models, DEVICES[names[-1]], watcher.say)
        rng = random.Random(seed)
        for number, setting in enumerate(settings, 1):
            watcher.start(setting, number, len(settings))
            backend, device = backends[setting.backend], DEVICES[setting.device]
            rows = SettingRun(setting, backend, device, models, known, limits, rng, watcher.say, cells).run()
            results.rows += rows
            results.warnings = [*found, *doubts(results.rows)]
            results.seconds = time.perf_counter() - began
            watcher.finish(results, rows)
    return results


def _check_candidates(candidates: Sequence[Candidate], limits: Limits) -> None:
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f'expected models under different names, got {names}')
    for candidate in candidates:
        for teacher in candidate.taught_by:
            if teacher not in names:
                raise ConfigError(f'{candidate.name}: its teacher {teacher!r} is no candidate{nearest(teacher, names)}')
    if limits.budget <= 0 or limits.max_batch < 1:
        raise ConfigError(f'expected a budget above 0 seconds and batches of 1 or more, got {limits}')


def _check_settings(settings: Sequence[Setting], backends: Mapping[str, Backend]) -> None:
    for setting in settings:
        _check_known('devices', setting.device, DEVICES)
        _check_known('backends', setting.backend, backends)
        _check_known('precisions', setting.precision, PRECISIONS)


def _check_known(what: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise ConfigError(f'{what}: {name!r} is unknown{nearest(name, known)}')
