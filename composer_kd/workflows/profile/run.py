"""Trains a few steps of a configuration and measures the time of each phase: ``composer-kd profile``."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from typing_extensions import override

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.callbacks.phases import PhaseLabels, StepClock, Trace
from composer_kd.config.effects import QUIET
from composer_kd.config.schema import RunConfig
from composer_kd.errors import ConfigError
from composer_kd.runs.build import build_trainer
from composer_kd.runs.ending import closing
from composer_kd.runs.files import make_folder
from composer_kd.runs.process import keep_freed_memory, without_remarks
from composer_kd.spans import TEACHER_FORWARD
from composer_kd.workflows.profile.report import StepTimes, environment, write_report

__all__ = ['FILES', 'default_folder', 'profile']

WARM_UP, TRACED = 3, 2
TRACE_FILE = 'trace.json'
FILES = ('profile.md', 'profile.png', 'steps.json', TRACE_FILE)
"""The files of a profile; the last one is written only if the run is long enough for a trace."""

_LEFT_OUT: dict[str, Any] = {**QUIET, 'callbacks': {}, 'loggers': {}}


class _Course(Callback):
    """Runs the warm-up, measured and traced steps in turn, and then ends the run."""

    def __init__(self, clock: StepClock, batches: int, trace: Trace | None) -> None:
        self._clock, self._trace = clock, trace
        self._done = 0
        self._at = {  # number of finished steps -> action
            WARM_UP: self._clock.start,
            WARM_UP + batches: self._end_of_measuring,
        }
        self._last = WARM_UP + batches + 1 + TRACED
        self.is_traced = False

    @override
    def batch_end(self, state: State, logger: Logger) -> None:
        self._done += 1
        if self._trace is not None:
            self._trace.step()
        if self._done in self._at:
            self._at[self._done]()
        if self._done == self._last:
            self.is_traced = True
            state.stop_training()

    @override
    def close(self, state: State, logger: Logger) -> None:
        if self._trace is not None:  # Composer closes callbacks twice; stopping twice has no effect
            self._trace.stop()

    def _end_of_measuring(self) -> None:
        self._clock.stop()  # the profiler slows down the steps that it records
        if self._trace is not None:
            self._trace.start()


def default_folder(config: RunConfig) -> pathlib.Path:
    """Returns the default folder of a profile: ``<run_name>-profile`` beside the run's folder."""
    parent = config.folder.parent if config.folder is not None else pathlib.Path('runs')
    return parent / f'{config.run_name}-profile'


def profile(config: RunConfig, batches: int = 10, folder: str | pathlib.Path | None = None) -> StepTimes:
    """Measures how the time of a training step divides into phases.

    Trains the first steps of the run as ``composer-kd train`` does, but without checkpoints, logging and evaluation.
    The YAML's callbacks and loggers are omitted, because they may write files. After three warm-up steps, ``batches``
    steps are timed; then torch's profiler records two more for ``trace.json``.

    Args:
        config: The configuration of the run, from ``load_config``.
        batches: The number of timed steps.
        folder: The folder for ``trace.json``, ``profile.png``, ``profile.md`` and ``steps.json``; by default
            ``<run_name>-profile`` beside the run's folder.

    Returns:
        The duration of each phase of each timed step.

    Raises:
        ComposerKDError: If data, a checkpoint or a setting is wrong, the folder is the run's own, or the run ends
            before a step is timed.
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
        with closing(trainer):
            if writes:
                (out / TRACE_FILE).unlink(missing_ok=True)  # the trace of an earlier profile
            trainer.fit()
            times = StepTimes(
                str(config.run_name), clock.steps, clock.device_steps, WARM_UP, environment(trainer.state)
            )
            times.notes.extend(_notes(trainer.state, times, batches, course.is_traced))
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
    windows = [algorithm.window for algorithm in distilling if algorithm.window is not None and algorithm.teachers]
    if windows and not any(step[TEACHER_FORWARD] for step in times.steps):
        notes.append(
            f'No teacher ran: the distillation is not open in the first steps ({windows[0]}). Give '
            'algorithms.distillation.start_dur=0 to see its cost.'
        )
    return notes
