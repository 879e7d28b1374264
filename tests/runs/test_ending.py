"""What a run says and leaves if it ends before its time, and how damaged folders are gone on from."""

import errno
import shutil
import sys

import pytest
import torch
from composer.loggers import LoggerDestination

from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError, StorageError
from composer_kd.runs.train import train
from tests.helpers import EventSpy

STUDENT = 'yamls/digits/student.yaml'
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


def test_ctrl_c_says_where_the_run_stands(tmp_path, capsys, monkeypatch):
    def interrupt(state):
        if state.timestamp.batch == 2:
            raise KeyboardInterrupt

    spy = EventSpy('batch_start', interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / 'x', callbacks=[spy])
    said = capsys.readouterr().out
    assert 'Stopped in epoch 2 after 2 batches. The latest checkpoint is' in said
    assert 'autoresume=true' in said
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / 'y', 'save_interval=9ba', callbacks=[spy])
    assert 'No checkpoint is saved yet' in capsys.readouterr().out
    monkeypatch.setattr('composer_kd.runs.train.train', stop)
    assert main(['train', STUDENT]) == 130
    assert 'stopped by Ctrl-C' in capsys.readouterr().err


def stop(config):
    raise KeyboardInterrupt


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


@pytest.mark.parametrize('is_terminal', [True, False])
def test_a_progress_bar_is_for_terminals(tmp_path, monkeypatch, is_terminal):
    made = []

    class Bar(Told):
        def __init__(self, **options):
            super().__init__()
            made.append(options)

    monkeypatch.setattr('composer.trainer.trainer.ProgressBarLogger', Bar)
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: is_terminal, raising=False)
    run(tmp_path, 'progress_bar=true')
    assert bool(made) == is_terminal
