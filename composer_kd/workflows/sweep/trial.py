"""Runs one trial: trains with given settings and reports the metric after each evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import shutil
import time
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from composer import Callback
from composer.core import State
from composer.loggers import Logger
from omegaconf import OmegaConf
from typing_extensions import override

from composer_kd.bench.failures import is_out_of_memory
from composer_kd.callbacks import BestCheckpoint
from composer_kd.config.load import as_mapping, load_config
from composer_kd.config.schema import RunConfig
from composer_kd.errors import ConfigError, LossError, nearest
from composer_kd.presentation.files import write_file
from composer_kd.runs.files import METRICS_FILE
from composer_kd.runs.train import CONFIG_FILE, final_metrics, train

__all__ = ['LOG_FILE', 'RESULT_FILE', 'Job', 'execute', 'trial_folder', 'write_result']

RESULT_FILE = 'result.json'
LOG_FILE = 'log.txt'
LONGEST_REASON = 500


@dataclass(frozen=True)
class Job:
    """The description of a trial for a worker.

    Args:
        number: The number of the trial.
        base: The run's YAML.
        overrides: The overrides of the YAML for this trial.
        metric: The logged metric that is optimised.
        folder: The folder for the trial's files.
    """

    number: int
    base: str
    overrides: tuple[str, ...]
    metric: str
    folder: str


class Pruned(Exception):
    """Raised to end a trial early because it is worse than others."""


class Progress(Callback):
    """Reports the metric after each evaluation, and ends the run by raising :class:`Pruned` if requested.

    Args:
        metric: The metric's name in Composer's logs.
        report: A function of the number of the evaluation, from 1, and the metric; returns whether to stop the run.
    """

    def __init__(self, metric: str, report: Callable[[int, float], bool]) -> None:
        self.metric = metric
        self.report = report
        self.step = 0

    @override
    def eval_after_all(self, state: State, logger: Logger) -> None:
        value = _value(final_metrics(types.SimpleNamespace(state=state)), self.metric)
        self.step += 1
        end = state.max_duration
        at_end = end is not None and state.timestamp.get(end.unit) >= end  # a finished run counts as complete
        if math.isfinite(value) and self.report(self.step, value) and not at_end:
            raise Pruned(f'behind the other trials after evaluation {self.step}')


def trial_folder(out: pathlib.Path, number: int) -> pathlib.Path:
    """Returns the folder for the files of a trial.

    Example:
        >>> trial_folder(pathlib.Path('out'), 7).as_posix()
        'out/trials/007'
    """
    return out / 'trials' / f'{number:03d}'


def execute(job: Job, report: Callable[[int, float], bool]) -> dict[str, Any]:
    """Runs a trial; an error in it is returned as its outcome.

    Args:
        job: The trial. Its folder is emptied; the config, metrics, result and log are written there.
        report: A function that receives the metrics and decides about pruning, as in :class:`Progress`.

    Returns:
        ``state`` (``complete``, ``pruned`` or ``failed``), ``value``, ``reason``, ``seconds``, and for a failure
        ``of_settings``: whether it is due to the settings.
    """
    folder = pathlib.Path(job.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = time.perf_counter()
    with _said_to(folder / LOG_FILE) as log:
        try:
            outcome = _run(job, folder, report)
        except Pruned as stop:
            outcome = {'state': 'pruned', 'reason': str(stop)}
        except Exception as error:  # a failed trial is a result; the sweep continues
            outcome = {'state': 'failed', 'reason': _reason(error), 'of_settings': _is_of_settings(error)}
            traceback.print_exc(file=log)
    outcome['seconds'] = time.perf_counter() - start
    write_result(folder, {'number': job.number, **outcome})
    return outcome


@contextlib.contextmanager
def _said_to(file: pathlib.Path) -> Iterator[TextIO]:
    with open(file, 'w', encoding='utf-8') as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield log


def write_result(folder: pathlib.Path, outcome: dict[str, Any]) -> None:
    """Writes ``result.json`` atomically; its presence means that the trial has ended."""
    write_file(folder / RESULT_FILE, json.dumps(outcome, indent=2) + '\n')


def _run(job: Job, folder: pathlib.Path, report: Callable[[int, float], bool]) -> dict[str, Any]:
    config = load_config(job.base, job.overrides)
    # A trial saves no checkpoints, and in a folder that is given the trials would replace those of one another.
    kept = {name: part for name, part in config.callbacks.items() if part.target is not BestCheckpoint}
    config = dataclasses.replace(config, callbacks=kept)
    _write_config(config, folder)
    metrics = train(config, [Progress(job.metric, report)])
    write_file(folder / METRICS_FILE, json.dumps(metrics, indent=2) + '\n')
    value = _value(metrics, job.metric)
    if not math.isfinite(value):
        return {'state': 'failed', 'reason': f'diverged: {job.metric} is {value}', 'of_settings': True}
    return {'state': 'complete', 'value': value}


def _write_config(config: RunConfig, folder: pathlib.Path) -> None:
    write_file(folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(as_mapping(config))))


def _value(metrics: dict[str, float], name: str) -> float:
    if name not in metrics:
        raise ConfigError(f'metric.name: {name!r} is not measured in this run{nearest(name, metrics)}')
    return metrics[name]


def _reason(error: Exception) -> str:
    words = ' '.join(str(error).split())[:LONGEST_REASON]
    return f'out of memory: {words}' if is_out_of_memory(error) else f'{type(error).__name__}: {words}'


def _is_of_settings(error: Exception) -> bool:
    return isinstance(error, LossError) or is_out_of_memory(error)
