"""Callbacks are closed twice: by ``Trainer.close()``, and by Composer once more when Python exits."""

import logging
import sys

import pytest
import torch
from composer.core import Callback
from composer.core.engine import Engine
from rich.console import Console

from composer_kd import spans
from composer_kd.callbacks.cost import TrainingCost
from composer_kd.callbacks.history import HistoryLogger, read_history
from composer_kd.callbacks.phases import PhaseLabels, StepClock, Trace
from composer_kd.cli.main import main
from composer_kd.workflows.demo.progress import Bar, bars
from composer_kd.workflows.demo.results import Entry
from composer_kd.workflows.sweep.trial import Progress
from tests.helpers import loader, pairs, student, trainer
from tests.launching import forked

SHORT = ['train_loader.dataset.subset=96', 'global_train_batch_size=8']


@pytest.mark.parametrize('steps', [5, 6])  # three warm up, two are measured; the trace warms up in the next
def test_a_profile_of_a_run_that_ends_inside_the_traced_steps_ends_well(steps, tmp_path):
    command = ['profile', 'yamls/digits/student.yaml', *SHORT, f'max_duration={steps}ba', '--batches', '2']
    code, said = forked(exit_with, [*command, '--out', str(tmp_path)])
    assert code == 0, said[-2000:]
    assert 'Error running' not in said
    assert 'before the trace was complete' in said


def exit_with(command):
    sys.exit(main(command))


def test_a_trace_is_written_once_however_often_it_is_stopped(tmp_path):
    code, said = forked(stop_often, tmp_path / 'trace.json')
    assert code == 0, said[-2000:]
    assert (tmp_path / 'first.json').stat().st_size > 1000


def stop_often(file):
    trace = Trace(str(file), steps=1)
    trace.stop()  # before it began
    trace.step()
    trace.start()
    for _ in range(2):
        torch.ones(2) + 1
        trace.step()
    trace.stop()
    file.rename(file.with_name('first.json'))
    trace.step()
    trace.stop()
    assert not file.exists()


class Tracing(Callback):
    def __init__(self, file):
        self.trace = Trace(file, steps=1)

    def fit_start(self, state, logger):
        self.trace.start()

    def batch_end(self, state, logger):
        self.trace.step()

    def close(self, state, logger):
        self.trace.stop()


def started_clock():
    clock = StepClock()
    clock.start()
    return clock


def bar():
    progress = bars(Console(quiet=True))
    return Bar(Entry('student', 'labels'), progress, progress.add_task('student', total=3, accuracy=''))


CALLBACKS = {
    'PhaseLabels': lambda folder: [PhaseLabels()],
    'StepClock': lambda folder: [PhaseLabels(), started_clock()],
    'Trace': lambda folder: [Tracing(str(folder / 'trace.json'))],
    'TrainingCost': lambda folder: [TrainingCost()],
    'Progress': lambda folder: [Progress('metrics/eval/MulticlassAccuracy', lambda step, value: False)],
    'Bar': lambda folder: [bar()],
}


def fit(callbacks=(), loggers=()):
    data = loader(*pairs(24))
    run = trainer(
        student(), data, callbacks=callbacks, loggers=list(loggers), eval_dataloader=data, eval_interval='1ep'
    )
    run.fit()
    return run


def close_twice(run, caplog):
    with caplog.at_level(logging.ERROR):
        run.close()
        Engine._close(run.state, run.logger)  # what Composer registers for the end of the process
    assert 'Error running' not in caplog.text


@pytest.mark.parametrize('name', CALLBACKS)
def test_closing_twice_is_closing_once(name, tmp_path, caplog):
    run = fit(CALLBACKS[name](tmp_path))
    close_twice(run, caplog)
    assert all(not optimizer._optimizer_step_pre_hooks for optimizer in run.state.optimizers)
    assert not spans.listeners
    assert not torch.autograd._profiler_enabled()


def test_a_record_that_is_closed_twice_is_as_it_was(tmp_path, caplog):
    logger = HistoryLogger(tmp_path)
    run = fit(loggers=[logger])
    run.close()
    before = read_history(tmp_path)
    close_twice(run, caplog)
    assert read_history(tmp_path) == before
    assert len(before) == 4


def test_a_clock_that_is_started_twice_counts_once():
    clock = StepClock()
    clock.start()
    clock.start()
    clock.stop()
    assert not spans.listeners
