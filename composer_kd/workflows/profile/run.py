"""``composer-kd profile``: runs a few steps of a configuration and measures where their time goes."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.callbacks.phases import PhaseLabels, StepClock, Trace
from composer_kd.config.effects import QUIET
from composer_kd.config.schema import RunConfig
from composer_kd.errors import ConfigError
from composer_kd.runs.build import build_trainer
from composer_kd.runs.files import make_folder
from composer_kd.runs.process import keep_freed_memory, without_remarks
from composer_kd.spans import TEACHER_FORWARD
from composer_kd.workflows.profile.report import StepTimes, environment, write_report

__all__ = ['FILES', 'default_folder', 'profile']

WARM_UP, TRACED = 3, 2
TRACE_FILE = 'trace.json'
FILES = ('profile.md', 'profile.png', 'steps.json', TRACE_FILE)
"""What a profile leaves; the last one only where the run was long enough for it."""

_LEFT_OUT: dict[str, Any] = {**QUIET, 'callbacks': {}, 'loggers': {}}


class _Course(Callback):
    """Warms up, measures, traces, and ends the run."""

    def __init__(self, clock: StepClock, batches: int, trace: Trace | None) -> None:
        self._clock, self._trace = clock, trace
        self._done = 0
        self._at = {  # after how many steps something happens
            WARM_UP: self._clock.start,
            WARM_UP + batches: self._end_of_measuring,
        }
        self._last = WARM_UP + batches + 1 + TRACED
        self.is_traced = False

    def batch_end(self, state: State, logger: Logger) -> None:
        """Another step is done."""
        self._done += 1
        if self._trace is not None:
            self._trace.step()
        if self._done in self._at:
            self._at[self._done]()
        if self._done == self._last:
            self.is_traced = True
            state.stop_training()

    def close(self, state: State, logger: Logger) -> None:
        """Ends the trace; Composer closes callbacks twice."""
        if self._trace is not None:
            self._trace.stop()

    def _end_of_measuring(self) -> None:
        self._clock.stop()  # the profiler slows steps down: those that it records are not measured
        if self._trace is not None:
            self._trace.start()


def default_folder(config: RunConfig) -> pathlib.Path:
    """Where a profile goes unless told otherwise: beside the run's folder, never into it."""
    parent = config.folder.parent if config.folder is not None else pathlib.Path('runs')
    return parent / f'{config.run_name}-profile'


def profile(config: RunConfig, batches: int = 10, folder: str | pathlib.Path | None = None) -> StepTimes:
    """Measures where the time of a training step goes.

    The run's first steps are trained as ``composer-kd train`` would, but no checkpoint is written, nothing is logged
    and evaluated, and the YAML's callbacks and loggers are left out, for they might write. Three steps warm up, then
    ``batches`` steps are measured by the clock, then torch's profiler records two more for ``trace.json``.

    Args:
        config: From ``load_config``.
        batches: How many steps are measured.
        folder: Where ``trace.json``, ``profile.png``, ``profile.md`` and ``steps.json`` go; by default
            ``<run_name>-profile`` beside the run's folder.

    Returns:
        How long each phase of each step took.

    Raises:
        ComposerKDError: If data, a checkpoint or a setting turns out to be wrong, the folder is the run's own, or the
            run is over before a step was measured.
    """
    out = default_folder(config) if folder is None else pathlib.Path(folder)
    if config.folder is not None and out.resolve() == config.folder.resolve():
        raise ConfigError(f'--out: {out} is the folder of the run itself, which a profile must not change')
    bare = dataclasses.replace(config, **_LEFT_OUT)
    writes = dist.get_global_rank() == 0
    clock = StepClock()
    course = _Course(clock, batches, Trace(str(out / TRACE_FILE), TRACED) if writes else None)
    keep_freed_memory()
    if writes:
        make_folder(out, '--out')
    with without_remarks():
        trainer = build_trainer(bare, [PhaseLabels(), clock, course])
        trainer.state.evaluators = []
        try:
            if writes:
                (out / TRACE_FILE).unlink(missing_ok=True)  # that of an earlier profile
            trainer.fit()
            times = StepTimes(
                str(config.run_name), clock.steps, clock.device_steps, WARM_UP, environment(trainer.state)
            )
            times.notes.extend(_notes(trainer.state, times, batches, course.is_traced))
        finally:
            trainer.close()
    if not times.steps:
        raise ConfigError(
            f'the run was over after {int(trainer.state.timestamp.batch)} steps, and {WARM_UP} of them warm up: '
            'nothing was measured. Give a longer max_duration.'
        )
    if writes:
        write_report(times, out)
    return times


def _notes(state: State, times: StepTimes, batches: int, is_traced: bool) -> list[str]:
    notes = []
    if len(times.steps) < batches:
        notes.append(f'The run ended after {len(times.steps)} of the {batches} steps that were to be measured.')
    if not is_traced:
        notes.append('The run ended before the trace was complete; a longer max_duration gives it room.')
    distilling = [algorithm for algorithm in state.algorithms if isinstance(algorithm, DistillationAlgorithm)]
    windows = [algorithm.window for algorithm in distilling if algorithm.window is not None]
    if windows and not any(step[TEACHER_FORWARD] for step in times.steps):
        notes.append(
            f'No teacher ran: the distillation is not open in the first steps ({windows[0]}). Give '
            'algorithms.distillation.start_dur=0 to see its cost.'
        )
    return notes
