"""Folders of torch.distributed.checkpoint: torn ones are noticed, and nothing in them runs."""

from __future__ import annotations

import datetime
import os
import pickle
import shutil

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from composer_kd.cli.main import main
from composer_kd.errors import CheckpointError
from composer_kd.teachers.readers import sharded

pytestmark = pytest.mark.filterwarnings('ignore')


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sharded') / 'ep1-ba4'
    net = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    state = {'model': net.state_dict(), 'optimizers': optimizer.state_dict(), 'run': 'a', 'took': datetime.timedelta(3)}
    dcp.save({'state': state, 'rng': [{'torch': torch.get_rng_state()}]}, checkpoint_id=folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / 'ep1-ba4')


def _cut(folder):
    file = folder / '__0_0.distcp'
    file.write_bytes(file.read_bytes()[:-50])


def _odd(folder):
    (folder / '.metadata').write_bytes((folder / '.metadata').read_bytes()[:-50])


def _other(folder):
    (folder / '.metadata').write_bytes(pickle.dumps({'state_dict_metadata': 3}))


TORN = {
    'a file cut short': _cut,
    'a file missing': lambda folder: (folder / '__0_0.distcp').unlink(),
    'no index': lambda folder: (folder / '.metadata').unlink(),
    'an index cut short': _odd,
    'another pickle': _other,
    'an empty index': lambda folder: (folder / '.metadata').write_bytes(b''),
}


def test_a_whole_one_is_right(whole):
    sharded.check(str(whole), 'w')


@pytest.mark.parametrize('kind', TORN)
def test_a_torn_one_is_noticed(kind, copy):
    TORN[kind](copy)
    with pytest.raises(CheckpointError, match='truncated or not a checkpoint'):
        sharded.check(str(copy), 'w')


@pytest.mark.parametrize('file', ['.metadata', '__0_0.distcp'])
def test_a_part_that_cannot_be_read_is_said(file, copy, monkeypatch):
    def refuse(path, *arguments, **options):
        if str(path).endswith(file):
            raise PermissionError(13, 'Permission denied')
        return open(path, *arguments, **options)

    monkeypatch.setattr(sharded, 'open', refuse, raising=False)
    with pytest.raises(CheckpointError, match=rf'w/{file} .*\n.*Permission denied'):
        sharded.check(str(copy), 'w')


@pytest.mark.parametrize('place', ['index', 'object'])
def test_nothing_in_it_runs(place, tmp_path):
    folder = tmp_path / 'ep1-ba4'
    content = {'state': {'model': {'weight': torch.ones(2)}, 'x': Hostile(tmp_path / 'ran')}}
    dcp.save(content if place == 'object' else {'a': torch.ones(2)}, checkpoint_id=folder)
    if place == 'index':
        (folder / '.metadata').write_bytes(pickle.dumps(Hostile(tmp_path / 'ran')))
    with pytest.raises(CheckpointError, match='Refused to load'):
        sharded.check(str(folder), 'w')
    assert not (tmp_path / 'ran').exists()


MADE = b'\x80\x02ctorch.distributed.checkpoint.metadata\n'
CHANGES = {
    'the name of a class': MADE + b'BytesStorageMetadata\nN}U\x08__name__U\x15TensorStorageMetadatas\x86b0',
    'a member of an enumeration': MADE + b'_MEM_FORMAT_ENCODING\nK\x00\x85R}U\x07_value_K\x01sb0',
}


@pytest.mark.parametrize('change', CHANGES)
def test_an_index_changes_nothing_of_torch(change, copy):
    index = pickle.dumps(pickle.loads((copy / '.metadata').read_bytes()), protocol=2)
    (copy / '.metadata').write_bytes(CHANGES[change] + index[2:])
    with pytest.raises(CheckpointError, match='Refused to load a sharded checkpoint: its index changes'):
        sharded.check(str(copy), 'w')
    assert BytesStorageMetadata.__name__ == 'BytesStorageMetadata'


@pytest.mark.parametrize('kind', ['a file cut short', 'no index'])
def test_autoresume_refuses_it_in_one_sentence(kind, copy, tmp_path, capsys):
    TORN[kind](copy)
    (tmp_path / 'latest-rank0.pt').symlink_to('ep1-ba4')
    arguments = ['max_duration=1ba', f'save_folder={tmp_path}', 'autoresume=true', 'progress_bar=false']
    assert main(['train', 'yamls/digits/student.yaml', *arguments]) == 2
    said = capsys.readouterr().err
    assert 'autoresume: cannot go on from' in said
    assert 'truncated or not a checkpoint' in said
