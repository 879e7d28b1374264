"""What a run says and leaves if it ends before its time, and how damaged folders are gone on from."""

import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from composer.core import Callback
from composer.core.engine import sigterm_handler
from composer.loggers import LoggerDestination
from composer.utils import dist

from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError, StorageError, stopped_by
from composer_kd.runs.train import train
from tests.helpers import EventSpy

STUDENT = 'yamls/digits/student.yaml'
ROOT = Path(__file__).parents[2]
SMALL = ['progress_bar=false', 'train_loader.dataset.subset=128', 'eval_loader.dataset.subset=64']
KEPT = ['save_interval=1ba', 'save_num_checkpoints_to_keep=-1']


def run(folder, *overrides, callbacks=(), yaml=STUDENT):
    overrides = [*SMALL, *KEPT, 'max_duration=4ba', f'save_folder={folder}', *overrides]
    return train(load_config(yaml, overrides), callbacks, quiet=True)


def weights(folder):
    return torch.load(folder / 'latest-rank0.pt', weights_only=False)['state']['model']


@pytest.fixture(scope='module')
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ended') / 'run'
    return folder, run(folder)


def cut(file):
    file.write_bytes(file.read_bytes()[:9999])


def zeroed(file):
    content = file.read_bytes()
    third = len(content) // 3
    file.write_bytes(content[:third] + bytes(third) + content[2 * third :])


@pytest.mark.parametrize('damage', [cut, zeroed, lambda file: file.write_bytes(b''), lambda file: file.unlink()])
@pytest.mark.parametrize('files', [1, 99])
def test_it_goes_on_from_the_newest_whole_checkpoint(ended, tmp_path, damage, files, recwarn):
    before, metrics = ended
    folder = tmp_path / 'run'
    shutil.copytree(before, folder, symlinks=True)
    saved = sorted(folder.glob('ep*.pt'), key=lambda file: (int(file.name.split('-ba')[1].split('-')[0]), file.name))
    for file in saved[-files:]:
        damage(file)
    found = run(folder, 'autoresume=true')
    assert {name: value for name, value in found.items() if not name.startswith('cost/')} == {
        name: value for name, value in metrics.items() if not name.startswith('cost/')
    }
    assert all(torch.equal(value, weights(before)[name]) for name, value in weights(folder).items())


@pytest.mark.parametrize('written', ['{{{', '- 1', b'\xff\xfe\x00', ''])
def test_settings_that_are_damaged_are_one_sentence(ended, tmp_path, written):
    folder = tmp_path / 'run'
    shutil.copytree(ended[0], folder, symlinks=True)
    (folder / 'config.yaml').write_bytes(written if isinstance(written, bytes) else written.encode())
    with pytest.raises(ConfigError, match=r'config.yaml is damaged') as refused:
        run(folder, 'autoresume=true')
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('key', ['load_path', 'autoresume'])
def test_a_checkpoint_of_another_model_is_one_sentence(ended, tmp_path, key):
    teacher = tmp_path / 'teacher'
    run(teacher, 'max_duration=1ba', yaml='yamls/digits/teacher.yaml')
    if key == 'load_path':
        overrides = [f'load_path={teacher}/latest-rank0.pt', f'save_folder={tmp_path}/x']
    else:
        (teacher / 'config.yaml').unlink()
        overrides = ['autoresume=true']
    with pytest.raises(ConfigError, match=f'{key}: the checkpoint of .* does not fit this run') as refused:
        run(teacher, *overrides)
    assert '\n' not in str(refused.value)


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(ended, tmp_path, monkeypatch):
    save, calls = torch.save, []

    def no_room(state, file):
        calls.append(file)
        if len(calls) == 3:
            file.write(b'PK half a file')
            raise OSError(errno.ENOSPC, 'No space left on device')
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', no_room)
        with pytest.raises(StorageError, match=f'the disk of {tmp_path} is full.*No space left.*autoresume=true'):
            run(tmp_path, 'autoresume=true')
    run(tmp_path, 'autoresume=true')
    assert all(torch.equal(value, weights(ended[0])[name]) for name, value in weights(tmp_path).items())


SIGNALS = [(signal.SIGINT, 'Ctrl-C'), (signal.SIGTERM, 'SIGTERM')]


@pytest.fixture(params=[signal.default_int_handler, sigterm_handler], ids=['as Python has it', 'as Composer has it'])
def handled(request):
    """Signals raise what they raise in a process of its own: Composer's handlers are there once it is imported."""
    before = {number: signal.signal(number, sigterm_handler) for number, _ in SIGNALS}
    signal.signal(signal.SIGINT, request.param)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(('number', 'name'), SIGNALS)
def test_a_signal_says_where_the_run_stands(tmp_path, capsys, monkeypatch, handled, number, name):
    def interrupt(state):
        if state.timestamp.batch == 2:
            os.kill(os.getpid(), number)

    spied = functools.partial(train, callbacks=[EventSpy('batch_start', interrupt)])
    monkeypatch.setattr('composer_kd.runs.train.train', spied)
    command = ['train', STUDENT, *SMALL, *KEPT, 'max_duration=4ba']
    assert main([*command, f'save_folder={tmp_path}/x']) == 128 + number
    said = capsys.readouterr()
    assert 'Stopped in epoch 2 after 2 batches. The latest checkpoint is' in said.out
    assert 'autoresume=true' in said.out
    assert f'stopped by {name}' in said.err
    assert main([*command, f'save_folder={tmp_path}/y', 'save_interval=9ba']) == 128 + number
    assert 'No checkpoint is saved yet' in capsys.readouterr().out
    with pytest.raises((KeyboardInterrupt, SystemExit)) as ended:  # demos and trials have hints of their own
        run(tmp_path / 'z', callbacks=spied.keywords['callbacks'])
    assert stopped_by(ended.value) == number
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(('number', 'name'), SIGNALS)
@pytest.mark.parametrize('place', ['model', 'callbacks'])
def test_a_signal_while_something_is_built_is_no_fault_of_it(capsys, monkeypatch, handled, number, name, place):
    """Of a model, built by the run, and of a callback, built by the check."""

    def interrupt(*args, **options):
        os.kill(os.getpid(), number)

    monkeypatch.setattr('composer_kd.models.ShallowCNN.__init__', interrupt)
    monkeypatch.setattr('composer.callbacks.LRMonitor.__init__', interrupt)
    more = [] if place == 'model' else ['callbacks={lr_monitor: {}}']
    assert main(['train', STUDENT, *SMALL, *more, 'save_folder=null']) == 128 + number
    assert capsys.readouterr().err == f'composer-kd: stopped by {name}\n'


def test_a_run_that_fails_does_not_wait_for_the_other_processes(tmp_path, monkeypatch):
    """They are in the middle of a batch: each would wait for the other, and nobody would see the error."""
    waited = []
    monkeypatch.setattr('composer.utils.dist.barrier', lambda *args: waited.append(args))
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, callbacks=[EventSpy('batch_start', lambda state: waited.clear() or 1 / 0)])
    assert waited == []
    run(tmp_path)
    assert len(waited) > 0


class FailsOnOneRank(Callback):
    def batch_start(self, state, logger):
        if state.timestamp.batch == 3 and dist.get_global_rank() == 1:
            raise KeyError('only here')


def launched(folder, *overrides):
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', '-m', 'composer_kd', 'train', STUDENT]
    return subprocess.Popen(
        [*command, *SMALL, *KEPT, f'save_folder={folder}', *overrides],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )


@pytest.mark.slow  # starts three interpreters
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_two_processes_at_once(tmp_path, number):
    process = launched(tmp_path, 'max_duration=100000ba')
    while not (tmp_path / 'latest-rank0.pt').exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=25)  # the launcher kills those that have not ended after 30 seconds
    assert 'The latest checkpoint is' in said
    assert 'SIGKILL' not in said
    assert process.returncode == 143  # the launcher passes on both as SIGTERM


@pytest.mark.slow
def test_a_run_that_fails_in_one_process_ends_in_all(tmp_path):
    callback = 'callbacks={tests.runs.test_ending.FailsOnOneRank: {}}'
    said, _ = launched(tmp_path, 'max_duration=9ba', callback).communicate(timeout=200)  # a collective waits for 300
    assert "KeyError: 'only here'" in said


class Told(LoggerDestination):
    def __init__(self):
        self.settings = {}

    def log_hyperparameters(self, hyperparameters):
        self.settings.update(hyperparameters)


class Refuses(LoggerDestination):
    def log_hyperparameters(self, hyperparameters):
        if 'optimizer.lr' in hyperparameters:  # Composer logs its version and such before
            raise ValueError('changed since')


def test_every_logger_gets_the_settings(tmp_path):
    told = Told()
    with pytest.warns(UserWarning, match='Refuses did not take the settings of the run: changed since'):
        run(tmp_path, 'optimizer.lr=0.125', callbacks=[Refuses(), told])
    assert told.settings['optimizer.lr'] == 0.125
    assert told.settings['model.name'] == 'ShallowCNN'
    of_run = {key: value for key, value in told.settings.items() if '.' in key}
    assert {type(value) for value in of_run.values()} <= {bool, int, float, str}


@pytest.mark.parametrize(('stdout', 'stderr'), [(True, True), (False, True), (True, False)])
def test_a_progress_bar_is_for_terminals(tmp_path, monkeypatch, stdout, stderr):
    made = []

    class Bar(Told):
        def __init__(self, name):
            super().__init__()
            made.append(name)

    monkeypatch.setattr('composer_kd.runs.build.RunProgress', Bar)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: stdout, raising=False)
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: stderr, raising=False)
    run(tmp_path, 'progress_bar=true')
    assert bool(made) == (stdout and stderr)
