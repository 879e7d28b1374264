"""Values from outside the file reach what they are for, and no file, log or message."""

from __future__ import annotations

import json
import pickle
import traceback

import pytest
import torch
from omegaconf import OmegaConf

from composer_kd import FrozenTeacher
from composer_kd.config.load import as_mapping, load_config
from composer_kd.config.secrets import Secret, hidden
from composer_kd.config.yaml_source import read_source
from composer_kd.errors import CheckpointError, ConfigError
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train

STUDENT = 'yamls/digits/student.yaml'
SECRET = 'hunter2-hunter2'


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv('KD_SECRET', SECRET)


WAYS = {
    'directly': '${oc.env:KD_SECRET}',
    'within a text': 'key-${oc.env:KD_SECRET}',
    'through a key': '${variables.key}',
    'through a bracket': '${variables[key]}',
    'through a select': '${oc.select:variables.key}',
    'through a bracket with a dash': '${variables[api-key]}',
    'through a select of a select': '${oc.select:${variables.place}.key}',
    'through a select put together': '${oc.select:variables.${variables.which}}',
    'through a resolver put together': '${oc.${variables.read}:KD_SECRET}',
    'through a decode': '${oc.decode:"\'${oc.env:KD_SECRET}\'"}',
}


@pytest.mark.parametrize('way', WAYS)
def test_a_secret_is_used_and_written_as_its_interpolation(way, tmp_path):
    content = OmegaConf.load(STUDENT)
    content['variables'] = {**content.get('variables', {}), 'key': '${oc.env:KD_SECRET}'}
    content['variables'] |= {'api-key': '${oc.env:KD_SECRET}', 'place': 'variables', 'which': 'key', 'read': 'env'}
    content['loggers'] = {'wandb': {'project': WAYS[way]}}
    file = tmp_path / 'run.yaml'
    OmegaConf.save(content, file)
    config = load_config(file)
    assert SECRET in config.loggers['wandb'].options['project']
    saved = OmegaConf.to_yaml(OmegaConf.create(as_mapping(config)))
    assert SECRET not in saved
    assert SECRET not in repr(config)
    again = tmp_path / 'again.yaml'
    again.write_text(saved)
    assert load_config(again).loggers['wandb'].options == config.loggers['wandb'].options


VALUES = {
    'a relative select': "{d: {key: '${oc.env:KD_SECRET}', also: '${oc.select:.key}'}}",
    'a part of a name': "{end: SECRET, key: '${oc.env:KD_${variables.end}}', also: '${variables[key]}'}",
    'a mapping': "{key-s: {a-b: '${oc.env:KD_SECRET}'}, also: '${variables[key-s]}'}",
    'a list': "{key-s: ['${oc.env:KD_SECRET}'], also: '${variables[key-s]}'}",
    'a text': "{key-s: 'Bearer ${oc.env:KD_SECRET}', also: '${oc.decode:${variables[key-s]}}'}",
}


@pytest.mark.parametrize('way', VALUES)
def test_what_holds_the_value_of_a_secret_is_one(way, tmp_path):
    file = tmp_path / 'run.yaml'
    file.write_text(f'variables: {VALUES[way]}')
    source = read_source(file)
    assert json.dumps(source.data).count(SECRET) == 2
    assert SECRET not in str(hidden(source.data))
    assert SECRET not in str(source.faults)


def test_no_key_is_a_secret(tmp_path):
    file = tmp_path / 'run.yaml'
    file.write_text('variables: {d: \'${oc.decode:"{${oc.env:KD_SECRET}: 1}"}\'}')
    with pytest.raises(ConfigError, match='a key of a mapping holds a value from outside the file') as error:
        read_source(file)
    assert SECRET not in str(error.value)


def test_what_stands_in_the_file_is_none_though_the_environment_says_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv('KD_DATA', 'digits')
    file = tmp_path / 'run.yaml'
    file.write_text("{a: '${oc.env:KD_DATA}', b: digits, digits: {name: digits}, c: '${digits}', e: '${b}'}")
    copies = {'c': {'name': 'digits'}, 'e': 'digits'}
    shown = hidden(read_source(file).data)
    assert shown == {'a': '${oc.env:KD_DATA}', 'b': 'digits', 'digits': {'name': 'digits'}, **copies}


def test_what_stays_in_the_file_is_written_as_its_value():
    config = load_config('yamls/digits/kd.yaml')
    assert '${' not in OmegaConf.to_yaml(OmegaConf.create(as_mapping(config)))


def test_no_file_of_a_run_holds_a_secret(tmp_path, monkeypatch):
    folder = tmp_path / 'run'
    monkeypatch.setenv('KD_SPLIT', 'test')
    short = [
        'max_duration=1ba',
        'train_loader.dataset.subset=64',
        'eval_loader.dataset.subset=64',
        'progress_bar=false',
    ]
    content = OmegaConf.load(STUDENT)
    content.variables.key = '${oc.env:KD_SECRET}'
    OmegaConf.save(content, tmp_path / 'run.yaml')
    own = ['eval_loader.dataset.split=${oc.env:KD_SPLIT}', f'save_folder={folder}']
    config = load_config(tmp_path / 'run.yaml', [*short, *own])
    train(config, quiet=True)
    for file in folder.rglob('*'):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file
    run = open_run(folder)
    assert run.config.eval_loader.dataset.options['split'] == 'test'
    assert SECRET not in str(run.written)
    assert run.written['eval_loader']['dataset']['split'] == '${oc.env:KD_SPLIT}'


def test_messages_show_the_interpolation():
    with pytest.raises(ConfigError) as error:
        load_config(STUDENT, ['seed=${oc.env:KD_SECRET}', 'optimizer.lr=${oc.env:KD_SECRET}'])
    assert "seed: expected an integer, got '${oc.env:KD_SECRET}'" in str(error.value)
    assert SECRET not in str(error.value)


def test_a_secret_survives_the_way_into_another_process():
    sent = pickle.loads(pickle.dumps(Secret(SECRET, '${oc.env:KD_SECRET}')))
    assert sent == SECRET
    assert sent.written == '${oc.env:KD_SECRET}'
    assert f'{sent}' == SECRET


def test_a_folder_from_the_environment_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv('KD_RUNS', str(tmp_path))
    content = OmegaConf.load(STUDENT)
    content.save_folder = '${oc.env:KD_RUNS}/run'
    OmegaConf.save(content, tmp_path / 'student.yaml')
    assert load_config(tmp_path / 'student.yaml').folder == tmp_path / 'run'
    (tmp_path / 'run').mkdir()
    torch.save({}, tmp_path / 'run' / 'latest-rank0.pt')
    assert open_run(tmp_path / 'student.yaml').folder == tmp_path / 'run'


TEACHER = {'name': 'ShallowCNN', 'in_channels': 1, 'image_size': 8, 'num_classes': 10}


def test_a_record_sends_nothing_of_this_machine_to_an_address(tmp_path):
    """A run folder that somebody sent may ask for a teacher under an address of theirs."""
    teacher = {'model': TEACHER, 'checkpoint': 'https://example.invalid/${oc.env:KD_SECRET}/w.pt'}
    algorithms = {'distillation': {'teachers': [teacher], 'kd_loss_fn': {'name': 'KLDivergence'}}}
    OmegaConf.save({'model': TEACHER, 'algorithms': algorithms}, tmp_path / 'config.yaml')
    torch.save({}, tmp_path / 'latest-rank0.pt')
    with pytest.raises(ConfigError, match='would send a value from this machine to that address') as error:
        open_run(tmp_path)
    assert SECRET not in str(error.value)
    assert '${oc.env:KD_SECRET}' in str(error.value)
    assert open_run(tmp_path / 'latest-rank0.pt', tmp_path / 'config.yaml').config.teachers


def test_a_secret_within_an_address_is_not_shown(tmp_path, monkeypatch):
    def fetch(path, destination, progress_bar):
        raise OSError(f'no route to {path.partition("://")[2]}')

    monkeypatch.setattr('composer_kd.teachers.fetching.get_file', fetch)
    address = Secret(f'https://host/{SECRET}/w.pt', 'https://host/${oc.env:KD_SECRET}/w.pt')
    with pytest.raises(CheckpointError, match='Could not fetch') as error:
        FrozenTeacher(torch.nn.Linear(2, 3), address)
    said = ''.join(traceback.format_exception(error.value))
    assert SECRET not in said
    assert '${oc.env:KD_SECRET}' in said
