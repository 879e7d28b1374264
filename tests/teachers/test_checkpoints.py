import contextlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from composer.utils import get_file  # noqa: F401  (what the loader relies on)
from torch import nn

from composer_kd import CheckpointError, CheckpointNotFoundError, ComposerKDError
from composer_kd.teachers import load_weights
from composer_kd.teachers.checkpoints import read_checkpoint
from tests.helpers import loader, mlp, pairs, student, train, weights


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """What a real run writes: a full checkpoint and one of the weights alone, and the model they hold."""
    folder = tmp_path_factory.mktemp('run')
    found = {}
    for kind, options in {'full': {}, 'weights': {'save_weights_only': True}}.items():
        model = student(mlp(seed=5))
        train(model, loader(*pairs()), save_folder=str(folder / kind), save_latest_filename='latest.pt', **options)
        found[kind] = Path(os.path.realpath(folder / kind / 'latest.pt'))
    return {**found, 'model': model}


@pytest.mark.parametrize('kind', ['full', 'weights'])
@pytest.mark.parametrize('wrap', [lambda m: m, student], ids=['plain module', 'ComposerClassifier'])
def test_loads_composer_checkpoints(checkpoints, kind, wrap):
    module = wrap(mlp(seed=9))
    load_weights(module, checkpoints[kind])
    assert torch.equal(weights(module), weights(checkpoints['model']))


def test_loads_by_uri(checkpoints, tmp_path, monkeypatch):
    """Other addresses go through Composer's get_file."""
    asked = []

    def fetch(path, destination, progress_bar):
        asked.append(path)
        Path(destination).write_bytes(checkpoints['weights'].read_bytes())

    monkeypatch.setattr('composer_kd.teachers.fetching.get_file', fetch)
    module = mlp(seed=9)
    load_weights(module, 's3://bucket/latest.pt')
    assert asked == ['s3://bucket/latest.pt']
    assert torch.equal(weights(module), weights(checkpoints['model']))


def test_an_address_that_cannot_be_reached(monkeypatch):
    def fetch(path, destination, progress_bar):
        raise FileNotFoundError('404')

    monkeypatch.setattr('composer_kd.teachers.fetching.get_file', fetch)
    with pytest.raises(CheckpointNotFoundError, match=r's3://bucket/none\.pt'):
        load_weights(mlp(), 's3://bucket/none.pt')


def test_tells_what_a_trainer_can_load(checkpoints, tmp_path):
    state = checkpoints['model'].state_dict()
    torch.save(state, tmp_path / 'plain.pt')
    torch.save({'state': state}, tmp_path / 'state.pt')
    torch.save({'state': 3, 'state_dict': state}, tmp_path / 'dict.pt')
    torch.save({'state': {f'model.{key}': value for key, value in state.items()}}, tmp_path / 'prefix.pt')
    places = [checkpoints['full'], checkpoints['weights']]
    places += [tmp_path / f'{name}.pt' for name in ('plain', 'state', 'dict', 'prefix')]
    assert [read_checkpoint(place).from_composer for place in places] == [True, True, False, False, False, False]


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize(
    'dress',
    [
        lambda s: s,
        lambda s: {'state_dict': s, 'epoch': 3},
        lambda s: {'module.' + k: v for k, v in s.items()},
        lambda s: {'module.model.' + k: v for k, v in s.items()},
    ],
)
def test_loads_state_dicts_in_any_dress(tmp_path, legacy, dress):
    source, target = mlp(seed=5), mlp(seed=9)
    torch.save(dress(source.state_dict()), tmp_path / 'w.pt', _use_new_zipfile_serialization=not legacy)
    load_weights(target, tmp_path / 'w.pt')
    assert torch.equal(weights(source), weights(target))


def test_files_from_before_batch_norm_counted(tmp_path):
    source, target = mlp(seed=5, norm=True), mlp(seed=9, norm=True)
    state = {key: value for key, value in source.state_dict().items() if not key.endswith('num_batches_tracked')}
    torch.save({'state_dict': state}, tmp_path / 'old.th')
    load_weights(target, tmp_path / 'old.th')
    assert torch.equal(weights(source), weights(target))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


@pytest.mark.parametrize('how', ['zip', 'legacy', 'pickle'])
def test_runs_nothing_of_a_hostile_checkpoint(tmp_path, how):
    mark, path = tmp_path / 'executed', tmp_path / 'evil.pt'
    content = {'state': {'model': mlp().state_dict(), 'extra': Evil(mark)}}
    if how == 'pickle':
        path.write_bytes(pickle.dumps(Evil(mark)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == 'zip')
    with pytest.raises(CheckpointError, match=r'Refused to load .*evil\.pt.*Nothing in it was run'):
        load_weights(mlp(), path)
    assert not mark.exists()


@pytest.mark.parametrize('legacy', [False, True])
def test_truncated(tmp_path, legacy):
    path = tmp_path / 'w.pt'
    torch.save(mlp().state_dict(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match='truncated or not a checkpoint'):
        load_weights(mlp(), path)


@pytest.mark.parametrize('legacy', [False, True])
def test_damaged_anywhere(tmp_path, legacy):
    """Cut at many places, or with a byte changed: loaded or refused, never another error."""
    path, target = tmp_path / 'w.pt', mlp()
    torch.save(mlp().state_dict(), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for at in range(1, len(whole), max(1, len(whole) // 60)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            with contextlib.suppress(CheckpointError):
                load_weights(target, path)


def test_tied_weights_may_be_held_once(tmp_path):
    def tied(seed):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        return net

    source, target = tied(0), tied(1)
    state = source.state_dict()
    del state['1.weight']
    torch.save(state, tmp_path / 'w.pt')
    load_weights(target, tmp_path / 'w.pt')
    assert torch.equal(source(torch.eye(3)), target(torch.eye(3)))


@pytest.mark.parametrize('content', [b'', b'not a checkpoint at all', b'{"json": 1}'])
def test_no_checkpoint_at_all(tmp_path, content):
    path = tmp_path / 'w.pt'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r'truncated or not a checkpoint|Refused'):
        load_weights(mlp(), path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=r'No checkpoint at .*nowhere\.pt'):
        load_weights(mlp(), tmp_path / 'nowhere.pt')
    with pytest.raises(FileNotFoundError):
        load_weights(mlp(), tmp_path / 'nowhere.pt')
    with pytest.raises(CheckpointError, match='is a folder'):
        load_weights(mlp(), tmp_path)


def test_lists_the_keys_that_do_not_fit(tmp_path):
    state = mlp().state_dict()
    state['5.weight'] = state.pop('4.weight')
    state['4.bias'] = torch.zeros(9)
    torch.save(state, tmp_path / 'w.pt')
    module = mlp(seed=9)
    before = weights(module)
    with pytest.raises(CheckpointError) as error:
        load_weights(module, tmp_path / 'w.pt')
    message = str(error.value)
    assert 'missing: 4.weight' in message
    assert 'unexpected: 5.weight' in message
    assert '4.bias (checkpoint (9,), module (4,))' in message
    assert torch.equal(weights(module), before)


@pytest.mark.parametrize('content', [{}, {'epoch': 3}, [1, 2], {'state': {'model': {}}}])
def test_holds_no_weights(tmp_path, content):
    torch.save(content, tmp_path / 'w.pt')
    with pytest.raises(CheckpointError, match='holds no weights'):
        load_weights(nn.Linear(1, 1), tmp_path / 'w.pt')


def test_all_are_errors_of_this_package():
    assert issubclass(CheckpointNotFoundError, (ComposerKDError, FileNotFoundError))
    assert issubclass(CheckpointError, ValueError)


@pytest.mark.parametrize('place', ['module', 'algorithm'])
def test_what_was_trained_beside_a_student_is_read_where_it_was_saved(place, tmp_path):
    """In the student's own state dict, or with the algorithm (see composer_kd.matches.auxiliary_state)."""
    student, peer = mlp(seed=1), mlp(seed=2)
    beside = {f'composer_kd.peer_slow.net.{key}': value for key, value in peer.state_dict().items()}
    model = {f'module.{key}': value for key, value in student.state_dict().items()}
    kept = {'auxiliary': beside} if place == 'algorithm' else {}
    state = {'model': {**model, **beside} if place == 'module' else model, 'algorithms': [('MutualLearning', kept)]}
    torch.save({'state': state}, tmp_path / 'run.pt')
    found = mlp(seed=3)
    load_weights(found, tmp_path / 'run.pt', entry='composer_kd.peer_slow.net')
    assert torch.equal(weights(found), weights(peer))
    load_weights(found, tmp_path / 'run.pt')
    assert torch.equal(weights(found), weights(student))
    with pytest.raises(CheckpointError, match=r"has no entry 'composer_kd\.peer_fast\.net'; did you mean 'composer_kd"):
        load_weights(found, tmp_path / 'run.pt', entry='composer_kd.peer_fast.net')
