"""The record of a run."""

import json
import math
import time

import pytest
import torch
from composer.loggers import InMemoryLogger

from composer_kd.callbacks.history import HISTORY_FILE, HistoryLogger, curve, read_history
from composer_kd.errors import ConfigError
from tests.helpers import EventSpy, loader, mse, pairs, student, trainer


def fit(folder, *, batches=40, callbacks=(), loggers=(), goes_on=False, **options):
    model = student(loss_fn=lambda outputs, batch: mse(outputs, torch.nn.functional.one_hot(batch[1], 4).float()))
    data = loader(*pairs(80))  # 10 batches an epoch
    run = trainer(
        model,
        data,
        callbacks=callbacks,
        loggers=[HistoryLogger(folder, goes_on), *loggers],
        max_duration=f'{batches}ba',
        eval_dataloader=loader(*pairs(16, seed=3)),
        eval_interval='10ba',
        run_name='history',
        save_folder=str(folder / 'checkpoints'),
        save_interval='5ba',
        **options,
    )
    try:
        run.fit()
    finally:
        run.close()
    return run


def stop_at(batch, error=KeyboardInterrupt):
    def stop(state):
        if int(state.timestamp.batch) == batch:
            raise error

    return EventSpy('batch_start', stop)


def without_id(history):
    return [{key: value for key, value in record.items() if key != 'run_id'} for record in history]


def test_it_holds_what_another_logger_was_told(tmp_path):
    memory = InMemoryLogger()
    fit(tmp_path, batches=20, loggers=[memory])
    history = read_history(tmp_path)
    assert [record['batch'] for record in history] == list(range(21))
    assert [record['epoch'] for record in history] == [0] * 10 + [1] * 11
    assert [record['sample'] for record in history] == [8 * batch for batch in range(21)]
    for key in ('loss/train/total', 'metrics/train/MulticlassAccuracy', 'metrics/eval/MulticlassAccuracy'):
        expected = [(int(when.batch), float(value)) for when, value in memory.data[key]]
        if key.startswith('metrics/train'):  # told twice at an epoch's end
            expected = list(dict(expected).items())
        assert list(zip(*curve(history, key))) == expected
    assert curve(history, 'no such key') == ([], [])
    assert curve(history, 'metrics/eval/MulticlassAccuracy')[0] == [10, 20]


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_nothing_is_lost_on_an_error(tmp_path, error):
    with pytest.raises(error):
        fit(tmp_path, callbacks=[stop_at(7, error)])
    assert curve(read_history(tmp_path), 'loss/train/total')[0] == list(range(7))


def test_a_resumed_run_has_the_record_of_one_that_was_never_stopped(tmp_path):
    fit(tmp_path / 'straight', batches=30, autoresume=True)
    straight = read_history(tmp_path / 'straight')
    with pytest.raises(KeyboardInterrupt):  # after the checkpoint and the evaluation of batch 10
        fit(tmp_path / 'stopped', batches=30, callbacks=[stop_at(13)], autoresume=True)
    file = tmp_path / 'stopped' / HISTORY_FILE
    file.write_text(file.read_text() + '{"batch": 13, "loss/tr')  # as a kill leaves it
    assert read_history(tmp_path / 'stopped')[-1]['batch'] == 12
    with pytest.raises(KeyboardInterrupt):  # at once after going on
        fit(tmp_path / 'stopped', batches=30, callbacks=[stop_at(10)], autoresume=True)
    assert read_history(tmp_path / 'stopped')[-1]['batch'] == 10
    fit(tmp_path / 'stopped', batches=30, autoresume=True)
    assert without_id(read_history(tmp_path / 'stopped')) == without_id(straight)


def test_a_record_that_ends_before_the_checkpoint_is_said(tmp_path):
    """As a power cut leaves it; a kill does not, because the file is written before each checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, batches=20, callbacks=[stop_at(13)], autoresume=True)
    file = tmp_path / HISTORY_FILE
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(''.join(lines[:4]) + lines[4][:20])
    with pytest.warns(UserWarning, match=r'ends too early: nothing is known of the batches from 3 to 10'):
        fit(tmp_path, batches=20, autoresume=True)
    assert [record['batch'] for record in read_history(tmp_path)] == [0, 1, 2, *range(10, 21)]


@pytest.mark.parametrize('left', ['', '\0' * 9, '{"batch": 0, "ep', None], ids=['empty', 'zeros', 'cut', 'missing'])
def test_a_record_that_is_lost_is_said(left, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, batches=20, callbacks=[stop_at(13)], autoresume=True)
    file = tmp_path / HISTORY_FILE
    file.unlink() if left is None else file.write_text(left)
    with pytest.warns(UserWarning, match=r'ends too early: nothing is known of the batches from 0 to 10'):
        fit(tmp_path, batches=20, goes_on=left is None, autoresume=True)
    assert read_history(tmp_path)[0]['batch'] == 10


def test_a_record_that_begins_with_a_checkpoint_of_another_folder_is_whole(tmp_path, recwarn):
    fit(tmp_path / 'one', batches=10)
    fit(tmp_path / 'two', batches=12, load_path=str(tmp_path / 'one' / 'checkpoints' / 'ep0-ba5-rank0.pt'))
    assert read_history(tmp_path / 'two')[0]['batch'] == 5
    assert not [one for one in recwarn if 'ends too early' in str(one.message)]


def test_a_damaged_record_is_set_aside(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, batches=20, callbacks=[stop_at(13)], autoresume=True)
    file = tmp_path / HISTORY_FILE
    lines = file.read_text().splitlines(keepends=True)
    damaged = ''.join([*lines[:4], '{"batch\n', *lines[5:]])
    file.write_text(damaged)
    with pytest.warns(UserWarning, match=r'line 5.*kept as history.jsonl.damaged, and the history starts anew'):
        fit(tmp_path, batches=20, autoresume=True)
    assert (tmp_path / 'history.jsonl.damaged').read_text() == damaged
    assert read_history(tmp_path)[0]['batch'] == 10


def test_each_damaged_record_is_kept(tmp_path):
    kept = {}
    for line, name in {'[' * 100_000: 'damaged', '{"batch": Infinity}': 'damaged-2', '3': 'damaged-3'}.items():
        kept[f'history.jsonl.{name}'] = f'{line}\n{{"batch": 1}}\n'
        (tmp_path / HISTORY_FILE).write_text(f'{line}\n{{"batch": 1}}\n')
        with pytest.warns(UserWarning, match=rf'line 1.*kept as history.jsonl.{name}, and'):
            fit(tmp_path, batches=1, save_overwrite=True)
    assert {file.name: file.read_text() for file in tmp_path.glob('*.damaged*')} == kept


def test_another_run_in_the_same_folder_starts_anew(tmp_path):
    fit(tmp_path, batches=20)
    fit(tmp_path, batches=6, save_overwrite=True)
    assert [record['batch'] for record in read_history(tmp_path)] == list(range(7))
    # One that goes on from a checkpoint of elsewhere does not continue what lies here.
    fit(tmp_path / 'other', batches=20)
    elsewhere = str(tmp_path / 'checkpoints' / 'ep0-ba5-rank0.pt')
    fit(tmp_path / 'other', batches=8, load_path=elsewhere, save_overwrite=True)
    assert [record['batch'] for record in read_history(tmp_path / 'other')] == [5, 6, 7, 8]


def test_a_trainer_that_never_fits_touches_nothing(tmp_path):
    (tmp_path / HISTORY_FILE).write_text('{"batch": 3, "x": 1}\n')
    trainer(student(), loader(*pairs()), loggers=[HistoryLogger(tmp_path)]).close()
    assert read_history(tmp_path) == [{'batch': 3, 'x': 1}]


def test_what_is_no_number_is_left_out_and_what_is_not_finite_is_not(tmp_path):
    def log(state):
        values = {'nan': math.nan, 'inf': torch.tensor(-math.inf), 'text': 'x', 'row': torch.ones(3), 'flag': True}
        run.logger.log_metrics({**values, 'zero': torch.zeros(()), 'none': None})

    logger = HistoryLogger(tmp_path)
    run = trainer(student(), loader(*pairs(8)), callbacks=[EventSpy('batch_end', log)], loggers=[logger])
    run.fit()
    run.close()
    last = read_history(tmp_path)[-1]
    assert math.isnan(last['nan'])
    assert (last['inf'], last['flag'], last['zero']) == (-math.inf, 1, 0.0)
    assert not {'text', 'row', 'none'} & last.keys()
    for line in (tmp_path / HISTORY_FILE).read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # every JSON reader can read it


def test_what_is_no_history_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='no training history'):
        read_history(tmp_path)
    (tmp_path / HISTORY_FILE).write_text('hello\n{"batch": 1}\n')
    with pytest.raises(ConfigError, match='line 1'):
        read_history(tmp_path)


def test_lines_reach_the_file_while_training_goes_on(tmp_path):
    seen = []

    def look(state):
        time.sleep(0.3)
        seen.append(len((tmp_path / HISTORY_FILE).read_text().splitlines()))

    run = trainer(
        student(), loader(*pairs(64)), callbacks=[EventSpy('batch_start', look)], loggers=[HistoryLogger(tmp_path)]
    )
    run.fit()
    run.close()
    assert seen[0] == 1
    assert 4 <= seen[-1] < 8
