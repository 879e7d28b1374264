"""Safetensors, folders of ``save_pretrained``, and what is no file of weights."""

import contextlib
import importlib.util
import json
import os
import socket
import sys
import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer_kd import CheckpointError, CheckpointNotFoundError
from composer_kd.teachers import load_weights, read_weights
from tests.helpers import mlp, weights

needs_safetensors = pytest.mark.skipif(
    importlib.util.find_spec('safetensors') is None, reason='the library of safetensors is not installed'
)


def state(seed=5):
    return mlp(seed=seed).state_dict()


def save(weights, path):
    from safetensors.torch import save_file

    save_file(weights, path)


def is_loaded(path):
    load_weights(target := mlp(seed=9), path)
    return torch.equal(weights(target), weights(mlp(seed=5)))


@needs_safetensors
@pytest.mark.parametrize('name', ['w.safetensors', 'w.pt', 'w'])
def test_safetensors_by_any_name(tmp_path, name):
    save({f'module.{key}': value for key, value in state().items()}, tmp_path / name)
    assert is_loaded(tmp_path / name)


@needs_safetensors
def test_safetensors_by_uri(tmp_path, monkeypatch):
    save(state(), tmp_path / 'w.safetensors')

    def fetch(path, destination, progress_bar):
        os.link(tmp_path / 'w.safetensors', destination)

    monkeypatch.setattr('composer_kd.teachers.fetching.get_file', fetch)
    assert is_loaded('s3://bucket/model.safetensors')


@needs_safetensors
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 900), at=st.integers(0, 500), byte=st.integers(0, 255))
def test_damaged_safetensors_are_read_or_refused(tmp_path, cut, at, byte):
    path = tmp_path / 'w.safetensors'
    save(state(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % len(whole)])
    with pytest.raises(CheckpointError):
        read_weights(path)
    path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    with contextlib.suppress(CheckpointError):
        read_weights(path)


@needs_safetensors
def test_safetensors_without_their_library(tmp_path, monkeypatch):
    save(state(), tmp_path / 'w.safetensors')
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(CheckpointError, match='pip install safetensors'):
        load_weights(mlp(), tmp_path / 'w.safetensors')


def write_shards(folder, write, suffix, shards):
    """Writes shards as save_pretrained does, with the index that names them."""
    index = {}
    for number, (name, content) in enumerate(shards.items()):
        write(content, folder / name)
        index.update({key: name for key in content if number == 0 or key in content})
    (folder / f'{suffix}.index.json').write_text(json.dumps({'metadata': {'total_size': 9}, 'weight_map': index}))
    return index


def halves():
    first = {key: value for key, value in state().items() if key.startswith('0')}
    return first, {key: value for key, value in state().items() if key not in first}


@pytest.mark.parametrize('kind', ['bin', pytest.param('safetensors', marks=needs_safetensors)])
def test_folders_of_one_file_and_of_shards(tmp_path, kind):
    write, stem = (torch.save, 'pytorch_model') if kind == 'bin' else (save, 'model')
    (one := tmp_path / 'one').mkdir()
    (several := tmp_path / 'several').mkdir()
    write(state(), one / f'{stem}.{kind}')
    (one / 'config.json').write_text('{}')
    assert is_loaded(one)
    assert is_loaded(f'{one}/')
    names = [f'{stem}-0000{n}-of-00002.{kind}' for n in (1, 2)]
    write_shards(several, write, f'{stem}.{kind}', dict(zip(names, halves())))
    assert is_loaded(several)
    (several / names[1]).unlink()
    with pytest.raises(CheckpointNotFoundError, match=names[1]):
        load_weights(mlp(), several)
    write({'else': torch.ones(1)}, several / names[1])
    with pytest.raises(CheckpointError, match=rf'{names[1]}(.|\n)*says that it holds 4'):
        load_weights(mlp(), several)


@pytest.mark.parametrize(
    'index',
    [
        '',
        '{',
        '[]',
        '{}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../other.bin"}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": "a"}',
        '[' * 100000,
    ],
)
def test_damaged_indices(tmp_path, index):
    (tmp_path / 'pytorch_model.bin.index.json').write_text(index)
    with pytest.raises(CheckpointError, match=r'index\.json is truncated or not a checkpoint'):
        load_weights(mlp(), tmp_path)


@pytest.mark.parametrize('kind', ['bert', 'base in a larger model', 'larger in the base', 'tied'])
@pytest.mark.parametrize('shard', ['5GB', '4KB'])
@pytest.mark.parametrize('safe', [pytest.param(True, marks=needs_safetensors), False])
def test_what_save_pretrained_writes(tmp_path, kind, shard, safe):
    transformers = pytest.importorskip('transformers')
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    whole, base = transformers.BertForSequenceClassification, transformers.BertModel
    source, target = {'bert': (whole, whole), 'base in a larger model': (base, whole),
                      'larger in the base': (whole, base),
                      'tied': (transformers.BertForMaskedLM, transformers.BertForMaskedLM)}[kind]  # fmt: skip
    torch.manual_seed(0)
    saved, loaded = source(config), target(config)
    saved.save_pretrained(tmp_path, max_shard_size=shard, safe_serialization=safe)
    if kind == 'base in a larger model':  # its head would be random
        with pytest.raises(
            CheckpointError, match=r'Classification:\n  missing: classifier\.weight, classifier\.bias\n'
        ):
            load_weights(loaded, tmp_path)
        return
    if kind == 'larger in the base':
        with pytest.warns(UserWarning, match=r"no place for 'classifier\.(weight|bias)', 'classifier\.(weight|bias)';"):
            load_weights(loaded, tmp_path)
        saved = saved.bert
    else:
        load_weights(loaded, tmp_path)
    expected = saved.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ('files', 'said'),
    [
        ([], 'It holds no file of weights'),
        (['latest-rank0.pt', 'config.yaml'], r'Pass one of its files: latest-rank0\.pt'),
        (['.metadata', '__0_0.distcp'], 'sharded checkpoint.*dcp_to_torch_save'),
        (['adapter_model.safetensors', 'adapter_config.json'], 'an adapter alone.*merge_and_unload'),
    ],
)
def test_other_folders(tmp_path, files, said):
    for file in files:
        (tmp_path / file).write_bytes(b'')
    with pytest.raises(CheckpointError, match=said):
        load_weights(mlp(), tmp_path)


def in_time(call):
    """Calls a function that might block, and returns its error."""
    errors = []

    def run():
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert not thread.is_alive()
    return errors[0]


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes in the file system')
def test_pipes_devices_and_sockets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo('pipe.pt')
    (tmp_path / 'folder').mkdir()
    os.mkfifo('folder/pytorch_model.bin')
    (tmp_path / 'shards').mkdir()
    os.mkfifo('shards/model.safetensors.index.json')
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind('socket.pt')
        for path in ('pipe.pt', 'folder', 'shards', '/dev/zero', '/dev/tty', 'socket.pt'):
            error = in_time(lambda path=path: load_weights(mlp(), path))
            assert isinstance(error, CheckpointError), (path, error)
            assert 'expected a file' in str(error), (path, error)


@pytest.mark.parametrize('path', ['no\0where', 'n' * 5000, '', 'file.txt/w.pt'])
def test_paths_that_cannot_be(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file.txt').write_text('')
    with pytest.raises(CheckpointError, match=r'No checkpoint at|cannot be read'):
        load_weights(mlp(), path)


def test_links(tmp_path):
    torch.save(state(), tmp_path / 'w.pt')
    (tmp_path / 'link.pt').symlink_to('w.pt')
    (tmp_path / 'broken.pt').symlink_to('gone.pt')
    (tmp_path / 'round.pt').symlink_to('round.pt')
    assert is_loaded(tmp_path / 'link.pt')
    for name in ('broken.pt', 'round.pt'):
        with pytest.raises(CheckpointError, match=name):
            load_weights(mlp(), tmp_path / name)


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may read everything')
def test_a_file_that_may_not_be_read(tmp_path):
    torch.save(state(), tmp_path / 'w.pt')
    (tmp_path / 'w.pt').chmod(0)
    with pytest.raises(CheckpointError, match='Permission denied'):
        load_weights(mlp(), tmp_path / 'w.pt')


def test_an_endless_file_of_zeros(tmp_path):
    with open(tmp_path / 'w.pt', 'wb') as file:
        file.truncate(1 << 40)
    error = in_time(lambda: load_weights(mlp(), tmp_path / 'w.pt'))
    assert isinstance(error, CheckpointError)
