"""Runs behind URIs, through Composer's object store code with a store in a folder."""

import json
import shutil
from pathlib import Path

import pytest

from composer_kd.bench import Limits
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import CheckpointNotFoundError, ConfigError
from composer_kd.presentation.roles import DISTILLED, TEACHER
from composer_kd.runs.compared import compared_models
from composer_kd.runs.evaluate import as_table, evaluate, evaluate_all
from composer_kd.runs.folder import check_remote
from composer_kd.runs.remote import check_uploaders, fetched, put, record_at
from composer_kd.runs.resume import check_resumable
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train
from composer_kd.trained import bench
from tests.object_store import as_composer_uploads, in_place_of_s3

STUDENT, URI = 'yamls/digits/student.yaml', 's3://bucket/runs/kd'
QUICK = ['max_duration=1ep', 'train_subset_num_batches=4', 'progress_bar=false']


@pytest.fixture(scope='module')
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'kd'
    return folder, train(load_config(STUDENT, [*QUICK, f'save_folder={folder}', 'run_name=kd']), quiet=True)


@pytest.fixture
def store(local, tmp_path, monkeypatch):
    fetched.cache_clear()
    as_composer_uploads(local[0], tmp_path / 'store/runs/kd')
    yield in_place_of_s3(monkeypatch, tmp_path / 'store')
    fetched.cache_clear()


@pytest.mark.parametrize('uri', [URI, f'{URI}/', f'{URI}/latest-rank0.pt', f'{URI}/ep1-ba4-rank0.pt'])
def test_evaluate_a_uri(local, store, uri):
    found = evaluate(uri)
    assert found.metrics == {key: value for key, value in local[1].items() if key.startswith('metrics/')}
    assert found.address == uri
    assert uri in list(as_table([found]).columns[0].cells)


def test_a_run_is_fetched_once(store, tmp_path):
    for _ in range(2):
        run = open_run(URI)
        assert (run.name, run.is_trained, bool(run.metrics)) == ('kd', True, True)
    assert [name for name in store.fetched if name.endswith('.pt')] == ['runs/kd/ep1-ba4-rank0.pt']


def test_commands_take_a_uri(store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['evaluate', URI]) == 0
    assert URI in capsys.readouterr().out.replace('\n', '')
    assert main(['export', URI, '--to', 'state-dict']) == 0
    assert (tmp_path / 'kd/export/state-dict/student.pt').is_file()
    assert main(['report', URI, '--no-bench', '--out', 'report']) == 0
    text = (tmp_path / 'report/report.md').read_text(encoding='utf-8')
    assert f'composer-kd report {URI}' in text
    assert '/tmp/composer_kd_' not in text
    settings = {'devices': ['cpu'], 'backends': ['eager'], 'precisions': ['fp32'], 'threads': [1]}
    assert [row.model for row in bench([URI], limits=Limits(0.02, 2), **settings).rows] == ['kd']


def test_local_and_remote_together(local, store):
    assert [one.address for one in evaluate_all([str(local[0]), URI])] == [None, URI]


@pytest.mark.parametrize('uri', [URI, f'{URI}/latest-rank0.pt'])
@pytest.mark.parametrize('teacher', [f'{URI}/latest-rank0.pt', 'runs/kd/latest-rank0.pt'])
def test_a_teacher_behind_a_uri_is_the_run_there(store, uri, teacher, tmp_path, monkeypatch):
    text = Path('yamls/digits/kd.yaml').read_text(encoding='utf-8')
    (tmp_path / 'student.yaml').write_text(text.replace('runs/digits-teacher/latest-rank0.pt', teacher))
    monkeypatch.chdir(tmp_path)
    listed = compared_models([open_run(uri), open_run('student.yaml')])
    assert [(one.name, one.role, one.taught_by) for one in listed] == [
        ('kd', TEACHER, ()), ('digits-kd', DISTILLED, ('kd',)),
    ]  # fmt: skip


def test_nothing_there(store):
    with pytest.raises(CheckpointNotFoundError, match='no checkpoint at s3://bucket/runs/other'):
        evaluate('s3://bucket/runs/other')


def test_a_checkpoint_without_settings_needs_a_yaml(store, tmp_path):
    (tmp_path / 'store/runs/kd/config.yaml').unlink()
    with pytest.raises(ConfigError, match='give --config YAML'):
        evaluate(URI)
    assert evaluate(URI, STUDENT).parameters == 21690


def test_a_store_that_refuses_is_one_line_without_keys(tmp_path, monkeypatch):
    fetched.cache_clear()
    in_place_of_s3(monkeypatch, tmp_path, refuses=('read', 'write'))
    config = load_config(STUDENT, ['save_folder=s3://bucket/{run_name}', 'run_name=x'])
    for call in (lambda: evaluate(URI), lambda: check_remote(config), lambda: put(URI, 'config.yaml', '')):
        with pytest.raises(ConfigError) as caught:
            call()
        assert 'PermissionError: Access denied' in str(caught.value)
        assert '\n' not in str(caught.value)


def test_the_records_of_a_remote_run(tmp_path, monkeypatch):
    in_place_of_s3(monkeypatch, tmp_path)
    put(URI, 'metrics.json', json.dumps({'time/batch': 4}))
    assert record_at(URI, 'metrics.json') == '{"time/batch": 4}'
    assert record_at(URI, 'config.yaml') is None
    assert record_at('dbfs:/x', 'config.yaml') is None


def test_a_remote_run_is_not_resumed_with_other_settings(store):
    same = load_config(STUDENT, [*QUICK, 'save_folder=s3://bucket/runs/kd', 'run_name=kd', 'autoresume=true'])
    check_resumable(same)
    other = load_config(STUDENT, [*QUICK, 'save_folder=s3://bucket/runs/kd', 'autoresume=true', 'optimizer.lr=0.5'])
    with pytest.raises(ConfigError, match=r'optimizer\.lr'):
        check_resumable(other)


def test_loggers_that_upload(tmp_path, monkeypatch):
    logger = 'loggers={remote_uploader_downloader: {bucket_uri: "s3://bucket"}}'
    config = load_config(STUDENT, [logger])
    in_place_of_s3(monkeypatch, tmp_path)
    check_uploaders(config)
    in_place_of_s3(monkeypatch, tmp_path, refuses=('read',))
    with pytest.raises(ConfigError, match=r'uploader_downloader\.bucket_uri: s3://bucket cannot be used'):
        check_uploaders(config)


def test_load_path_behind_a_uri(store, tmp_path):
    written = [*QUICK, f'save_folder={tmp_path}/again', f'load_path={URI}/latest-rank0.pt', 'max_duration=2ep']
    assert train(load_config(STUDENT, written), quiet=True)['time/batch'] == 8
    shutil.rmtree(tmp_path / 'store/runs')
    with pytest.raises(ConfigError, match=r'load_path: expected a Composer checkpoint\. No checkpoint at s3://bucket'):
        train(load_config(STUDENT, [*written, 'save_overwrite=true']), quiet=True)
