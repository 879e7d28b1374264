"""A run folder belongs to one run at a time, and is replaced only where this is asked for."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.runs import folder as folders
from composer_kd.runs.train import train
from tests.helpers import EventSpy
from tests.runs.killing import start

STUDENT = 'yamls/digits/student.yaml'
ROOT = pathlib.Path(__file__).parents[2]
SMALL = ['progress_bar=false', 'train_loader.dataset.subset=128', 'eval_loader.dataset.subset=64', 'save_interval=1ba']


def run(folder, *overrides, yaml=STUDENT):
    return train(load_config(yaml, [*SMALL, 'max_duration=2ba', f'save_folder={folder}', *overrides]), quiet=True)


def content(folder):
    """Every file with its bytes, links with their target, and when each was changed."""
    return {
        file.name: (os.readlink(file) if file.is_symlink() else file.read_bytes(), file.lstat().st_mtime_ns)
        for file in folder.iterdir()
        if file.name != '.lock'
    }


@pytest.mark.parametrize('change', ['seed=3', 'max_duration=1ba', 'optimizer.lr=0.1', 'run_name=other'])
def test_a_run_is_not_replaced_unasked(tmp_path, change):
    run(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match='holds a run that has finished') as refused:
        run(tmp_path, change)
    assert all(way in str(refused.value) for way in ('autoresume=true', 'save_overwrite=true', 'run_name='))
    assert content(tmp_path) == before


@pytest.mark.parametrize('left', ['ep*-ba2-rank0.pt', 'latest-rank0.pt', 'metrics.json', 'history.jsonl'])
def test_any_part_of_a_run_counts(tmp_path, left):
    run(tmp_path)
    for file in set(tmp_path.iterdir()) - set(tmp_path.glob(left)):
        file.unlink()
    with pytest.raises(ConfigError, match='holds a run'):
        run(tmp_path)


def test_a_run_that_failed_before_its_first_batch_is_started_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr('composer.Trainer._train_loop', lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path)
    assert (tmp_path / 'config.yaml').exists()
    assert run(tmp_path, 'optimizer.lr=0.1')['time/batch'] == 2


def test_what_is_replaced_leaves_nothing_behind(tmp_path):
    run(tmp_path / 'alone', 'max_duration=1ba', 'seed=3')
    run(tmp_path / 'x')
    run(tmp_path / 'x', 'max_duration=1ba', 'seed=3', 'save_overwrite=true')
    assert {file.name for file in (tmp_path / 'x').iterdir()} == {file.name for file in (tmp_path / 'alone').iterdir()}
    found = run(tmp_path / 'x', 'seed=3', 'autoresume=true')
    straight = run(tmp_path / 'straight', 'seed=3')
    assert all(found[name] == value for name, value in straight.items() if not name.startswith('cost/'))


def dangling(place):
    place.symlink_to('nowhere')


@pytest.mark.parametrize(
    'name', ['config.yaml', 'metrics.json', 'history.jsonl', 'ep1-ba1-rank0.pt', 'latest-rank0.pt']
)
@pytest.mark.parametrize('make', [pathlib.Path.mkdir, os.mkfifo, dangling])
@pytest.mark.parametrize('way', ['autoresume=true', 'save_overwrite=true'])
def test_what_is_no_file_is_said_before_the_run_gets_there(tmp_path, name, make, way):
    run(tmp_path)
    (tmp_path / 'metrics.json').touch()
    place = tmp_path / name
    place.unlink(missing_ok=True)
    make(place)
    if name.startswith('latest') and make is dangling:  # what a kill between two checkpoints leaves
        assert run(tmp_path, way)['time/batch'] == 2
        return
    with pytest.raises(ConfigError, match=f'save_folder: .*{name}: expected a file, got a folder, a pipe'):
        run(tmp_path, way)
    assert not (tmp_path / 'nowhere').exists()


def test_the_settings_of_a_run_that_replaced_another_one_replace_nothing(tmp_path):
    run(tmp_path)
    run(tmp_path, 'save_overwrite=true')
    before = content(tmp_path)
    with pytest.raises(ConfigError, match='holds a run that has finished'):
        train(load_config(tmp_path / 'config.yaml'))
    assert content(tmp_path) == before


def test_it_may_be_replaced_by_a_run_that_starts_from_it(tmp_path):
    run(tmp_path)
    more = [f'load_path={tmp_path}/latest-rank0.pt', 'save_overwrite=true', 'max_duration=4ba']
    assert run(tmp_path, *more)['time/batch'] == 4
    assert not (tmp_path / 'ep1-ba2-rank0.pt').exists()


@pytest.mark.parametrize('interval', ['1ep', '1ba', '2ba'])
@pytest.mark.parametrize('length', ['2ep', '4ba', '256sp'])
def test_a_finished_run_started_again_changes_nothing(tmp_path, interval, length):
    overrides = [f'save_interval={interval}', f'max_duration={length}', 'autoresume=true']
    first = run(tmp_path, *overrides)
    before = content(tmp_path)
    assert run(tmp_path, *overrides) == first
    assert run(tmp_path, *overrides, 'eval_interval=2ep', 'max_duration=1ba') == first  # shorter: there already
    assert content(tmp_path) == before
    assert run(tmp_path, *overrides, 'max_duration=3ep')['time/epoch'] == 3


def test_a_run_that_ended_early_has_finished_too(tmp_path):
    overrides = ['save_interval=1ep', 'max_duration=9ep', 'autoresume=true', f'save_folder={tmp_path}']
    stop = [EventSpy('epoch_end', lambda state: state.stop_training() if state.timestamp.epoch == 2 else None)]
    first = train(load_config(STUDENT, [*SMALL, *overrides]), stop, quiet=True)
    assert first['time/epoch'] == 2
    before = content(tmp_path)
    assert run(tmp_path, *overrides) == first
    assert content(tmp_path) == before
    assert run(tmp_path, *overrides, 'max_duration=10ep')['time/epoch'] == 10


def test_a_folder_in_use_is_refused(tmp_path, monkeypatch):
    overrides = ['max_duration=100000ba', 'save_interval=100000ba', f'save_folder={tmp_path}']
    first = start(STUDENT, [*SMALL, *overrides])
    try:
        while not (tmp_path / 'history.jsonl').exists() and first.is_alive():
            time.sleep(0.05)
        before = (tmp_path / 'config.yaml').read_bytes()
        monkeypatch.setattr(folders, 'SECONDS_TO_WAIT', 0.2)
        for way in ('save_overwrite=true', 'autoresume=true'):
            with pytest.raises(ConfigError, match='is in use: another process trains there'):
                run(tmp_path, way)
        assert (tmp_path / 'config.yaml').read_bytes() == before
    finally:
        first.kill()
        first.join()
    assert run(tmp_path, 'save_overwrite=true')['time/batch'] == 2  # a kill has freed it


@pytest.mark.parametrize('code', [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_a_kill_there_locks_nobody_out(tmp_path, monkeypatch, code):
    def without_locks(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr('fcntl.flock', without_locks)
    monkeypatch.setattr(folders, 'SECONDS_TO_WAIT', 0.2)
    (tmp_path / '.lock').write_text('12345\nhost\n')  # of a process that was killed
    with pytest.warns(UserWarning, match='cannot be locked'), folders.alone_in(tmp_path):
        pass


def two_processes(folder):
    launcher = ['-m', 'composer.cli.launcher', '-n', '2', '-m', 'composer_kd']
    return subprocess.Popen(
        [sys.executable, *launcher, 'train', STUDENT, *SMALL, 'max_duration=2ba', f'save_folder={folder}'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )


@pytest.mark.slow  # the launcher starts two interpreters, and waits for both
def test_two_processes_of_one_run_share_its_folder(tmp_path):
    said, _ = two_processes(tmp_path).communicate(timeout=240)
    assert json.loads((tmp_path / 'metrics.json').read_text())['time/batch'] == 2, said
    again = two_processes(tmp_path)
    said, _ = again.communicate(timeout=240)
    assert again.returncode != 0
    assert 'holds a run that has finished' in said


@pytest.mark.parametrize(
    'name',
    ['seed#1', 'what?', 'a;b', '..', '../x', 'a/../../b', '.', 'a\0b', 'a\nb', '\x1b[1m'],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match='run_name'):
        train(load_config(ROOT / STUDENT, [f'run_name={json.dumps(name)}', 'max_duration=1ba']), quiet=True)
    assert list(tmp_path.rglob('*')) == []


def test_a_name_too_long_for_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'save_folder: expected .* a path that can exist'):
        run(tmp_path / ('x' * 300))


@pytest.mark.parametrize('name', ['a b', 'ünï', 'a:b', 'a%20b', "it's", 'x=1,y=[2]', '~x', 'a/b', '$HOME', '-x', 'a&b'])
def test_other_names_save_where_they_say(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [*SMALL, f'run_name={json.dumps(name, ensure_ascii=False)}', 'max_duration=1ba']
    config = load_config(ROOT / STUDENT, overrides)
    train(config, quiet=True)
    assert config.run_name == name
    folder = tmp_path / 'runs' / name
    assert (folder / 'latest-rank0.pt').is_file()
    held = {file for file in tmp_path.rglob('*') if file.is_file()}
    assert held == {file for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize('place', ['foo://bucket/x', 'wandb://x/y', 's3://bucket/x', 'https://example.org/x'])
def test_a_remote_folder_that_cannot_work_is_one_line(place, monkeypatch):
    def fails(uri):
        raise (ImportError if uri.startswith('s3') else NotImplementedError)(f'no way\nto {uri}')

    monkeypatch.setattr(folders, 'maybe_create_object_store_from_uri', fails)
    with pytest.raises(ConfigError, match=f'save_folder: {place} cannot be used') as refused:
        run(place)
    assert '\n' not in str(refused.value)


def test_a_remote_run_is_not_replaced_unasked(monkeypatch):
    class Store:
        def get_object_size(self, name):
            if name != 'of/x/latest-rank0.pt.symlink':
                raise FileNotFoundError(name)
            return 3

    monkeypatch.setattr(folders, 'maybe_create_object_store_from_uri', lambda uri: Store())
    check = folders.check_remote
    with pytest.raises(ConfigError, match='s3://bucket/of/x holds a run'):
        check(load_config(STUDENT, ['save_folder=s3://bucket/of/{run_name}', 'run_name=x']))
    check(load_config(STUDENT, ['save_folder=s3://bucket/of/{run_name}', 'run_name=y']))
    check(load_config(STUDENT, ['save_folder=s3://bucket/of/x', 'save_overwrite=true']))
