"""Runs the trials of a sweep in worker processes; an interrupted sweep continues with the same call."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import optuna

from composer_kd.errors import ComposerKDError
from composer_kd.presentation.console import terminal
from composer_kd.presentation.settings import label, short_names
from composer_kd.presentation.units import seconds_text, value_text
from composer_kd.runs.files import make_folder
from composer_kd.runs.folder import locked
from composer_kd.workflows.sweep.plan import Plan, override
from composer_kd.workflows.sweep.results import write_plots, write_results
from composer_kd.workflows.sweep.study import Record, Study, grid_size
from composer_kd.workflows.sweep.trial import RESULT_FILE, Job, trial_folder, write_result
from composer_kd.workflows.sweep.workers import Worker, ready, share

__all__ = ['Settings', 'SweepError', 'search']

DEFAULT_TRIALS = 20
MOST_FAILURES = 5  # that are not due to the settings, without any success; the sweep then stops
MOST_DEATHS = 2  # of a trial's process; one may be due to another process that used up the memory
LOCK = '.lock'
DEATHS = 'deaths'  # attribute of a trial: how often its process died; set before the first start


class SweepError(ComposerKDError, RuntimeError):
    """Raised when a sweep cannot continue."""


@dataclass(frozen=True)
class Settings:
    """The options of a search.

    Args:
        out: The folder for all files.
        trials: The total number of trials, including those of earlier calls; by default the file's ``run_cap``, the
            size of the grid, or 20.
        workers: The number of trials that run in parallel.
        pruning: Whether bad trials are stopped early.
    """

    out: pathlib.Path
    trials: int | None = None
    workers: int = 1
    pruning: bool = True


def search(plan: Plan, settings: Settings) -> Study:
    """Runs trials and writes the results.

    After an interruption, finished trials are kept, and trials that were running are run again.

    Args:
        plan: The checked sweep.
        settings: The options of the search.

    Returns:
        The study with all trials.

    Raises:
        ConfigError: If the folder has the trials of a different search, or another process is using it.
        SweepError: If the first trials all fail for reasons other than their settings.
        SystemExit: After Ctrl-C or SIGTERM, as Composer raises it; the results so far have then been written.
    """
    make_folder(settings.out, '--out')
    refusal = f'{settings.out}: another sweep works there; wait for it, or take another --out'
    with locked(settings.out / LOCK, 0, refusal):
        study = Study(plan, settings.out, settings.workers, settings.pruning)
        _Search(plan, settings, study).run()
    return study


class _Search:
    """The loop that draws, runs and records trials. Only this process writes to the database."""

    def __init__(self, plan: Plan, settings: Settings, study: Study) -> None:
        self.plan = plan
        self.settings = settings
        self.study = study
        self.total = _total(plan, settings)
        count = min(settings.workers, self.total)
        self.workers = [Worker(share(count, index)) for index in range(count)]
        self.waiting = study.interrupted()
        self.failures: list[str] = []
        self.succeeded = any(record.state in ('complete', 'pruned') for record in study.records())
        self.stopped: int | None = None  # the signal that ends the search
        self.begin = time.perf_counter()
        self.ended = 0

    def run(self) -> None:
        """Runs trials until their number or the target is reached, then writes the results and plots."""
        kept = len(self.study.records()) - len(self.waiting)
        _say(f'{self.total} trials, judged by {self.plan.sweep.metric} on {self.plan.judged_on}')
        if kept or self.waiting:
            _say(f'{self.settings.out} has {kept} of them; {len(self.waiting)} that were running are run again')
        try:
            with self._stopping():
                while self.stopped is None and self._start():
                    for worker in ready(self.workers, seconds=0.5):
                        self._listen(worker)
                    self._give_up()
        finally:
            for worker in self.workers:
                worker.stop()
            write_results(self.study, self.settings.out)
            write_plots(self.study, self.settings.out)
        if self.stopped is not None:
            raise SystemExit(128 + self.stopped)

    def _start(self) -> bool:
        """Gives trials to idle workers; returns whether any worker is busy."""
        for worker in self.workers:
            while worker.busy is None:
                trial = self._next()
                if trial is None:
                    break
                self._begin(trial, worker)
        return any(worker.busy is not None for worker in self.workers)

    def _next(self) -> optuna.trial.Trial | None:
        if self.waiting:
            return self.waiting.pop(0)
        if len(self.study.records()) >= self.total or self._reached():
            return None
        return self.study.ask()

    def _begin(self, trial: optuna.trial.Trial, worker: Worker) -> None:
        """Starts a trial, or records its result if that is already known."""
        settings = self.study.settings(trial)
        folder = trial_folder(self.settings.out, trial.number)
        if DEATHS not in trial.user_attrs:
            shutil.rmtree(folder, ignore_errors=True)  # files of an earlier search
            trial.set_user_attr(DEATHS, 0)
        known = _read_result(folder)
        twin = self.study.twin(trial, settings)
        if known is not None:  # the sweep was killed after the trial, but before recording it
            self._note(trial, known)
        elif twin is not None:
            self._note(trial, _adopt(trial, twin, folder, self.settings.out))
        else:
            name = f'run_name={self.plan.sweep.name}-{trial.number:03d}'
            written = [override(key, value) for key, value in settings.items()]
            overrides = (*self.plan.overrides, name, *written)
            sweep = self.plan.sweep
            worker.start(trial, Job(trial.number, str(sweep.base), overrides, sweep.metric, str(folder)))

    def _listen(self, worker: Worker) -> None:
        trial = worker.busy
        kind, content = worker.receive()
        if kind == 'report':
            worker.answer(self.study.report(trial, *content))
        elif kind == 'end':
            self._note(trial, content)
        else:
            self._mourn(trial, _words(content))

    def _mourn(self, trial: optuna.trial.Trial, cause: str) -> None:
        deaths = trial.user_attrs[DEATHS] + 1
        trial.set_user_attr(DEATHS, deaths)
        if deaths < MOST_DEATHS:
            _say(f'trial {trial.number}: its process died ({cause}); it is run again')
            self.waiting.append(trial)
            return
        outcome = {'state': 'failed', 'reason': f'its process died {deaths} times ({cause})', 'of_settings': True}
        write_result(trial_folder(self.settings.out, trial.number), {'number': trial.number, **outcome})
        self._note(trial, outcome)

    def _note(self, trial: optuna.trial.Trial, outcome: dict[str, Any]) -> None:
        record = self.study.tell(trial, outcome)
        self.ended += 1
        self.succeeded |= record.state != 'failed'
        if record.state == 'failed' and not outcome.get('of_settings'):
            self.failures.append(record.reason or '')
        write_results(self.study, self.settings.out)
        _say(self._line(record))

    def _line(self, record: Record) -> str:
        records, best, metric = self.study.records(), self.study.best(), self.study.sweep.metric
        ended = sum(one.state != 'running' for one in records)
        number = '' if record.value is None else f'{value_text(metric, record.value)} '
        said = {
            'complete': number + (f'as trial {record.same_as}' if record.same_as is not None else ''),
            'pruned': f'{number}pruned after evaluation {max(record.steps, default=0)}',
            'failed': f'failed: {(record.reason or "")[:120]}',
        }[record.state]
        found = '' if best is None else f'; best {value_text(metric, best.value)} (trial {best.number})'
        left = (time.perf_counter() - self.begin) / self.ended * (self.total - ended)
        time_left = f'; about {seconds_text(left)} left' if left > 90 else ''
        names = short_names(list(record.settings))
        settings = ', '.join(f'{names[key]}={label(value)}' for key, value in record.settings.items())
        return f'[{ended}/{self.total}] trial {record.number}: {said.strip()}{found}{time_left}\n    {settings}'

    def _reached(self) -> bool:
        target, best = self.plan.sweep.target, self.study.best()
        sign = self.plan.sweep.sign
        return target is not None and best is not None and sign * (best.value or 0.0) >= sign * target

    def _give_up(self) -> None:
        if not self.succeeded and len(self.failures) >= MOST_FAILURES:
            reasons = '\n'.join(f'  {reason}' for reason in dict.fromkeys(self.failures))
            raise SweepError(
                f'{len(self.failures)} trials failed and none succeeded, so it is not the settings alone:\n{reasons}\n'
                f'Their log.txt says more. When it is mended, remove {self.settings.out} and start again.'
            )

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """Makes Ctrl-C and SIGTERM end the loop between two steps, so that every trial is recorded completely."""

        def stop(number: int, frame: Any) -> None:
            self.stopped = number

        try:
            before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # signals can only be handled in the main thread
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _total(plan: Plan, settings: Settings) -> int:
    grid = grid_size(plan.sweep)
    wanted = settings.trials or plan.sweep.run_cap or grid or DEFAULT_TRIALS
    return min(wanted, grid) if grid is not None else wanted


def _adopt(trial: optuna.trial.Trial, twin: Record, folder: pathlib.Path, out: pathlib.Path) -> dict[str, Any]:
    """Copies the result of a trial with the same settings, because training is deterministic."""
    for step, value in twin.steps.items():
        trial.report(value, step)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trial_folder(out, twin.number), folder)
    outcome = {'state': 'complete', 'value': twin.value, 'same_as': twin.number, 'seconds': 0.0}
    write_result(folder, {'number': trial.number, **outcome})
    return outcome


def _read_result(folder: pathlib.Path) -> dict[str, Any] | None:
    file = folder / RESULT_FILE
    return json.loads(file.read_text(encoding='utf-8')) if file.is_file() else None


def _words(code: int | None) -> str:
    if code is not None and code < 0:
        hint = ', perhaps for want of memory' if -code == signal.SIGKILL else ''
        return f'{signal.Signals(-code).name}{hint}'
    return f'exit status {code}'


def _say(text: str) -> None:
    terminal(soft_wrap=True).print(text, highlight=False, markup=False)
