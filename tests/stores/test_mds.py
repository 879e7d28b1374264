"""Stores in MosaicML Streaming's MDS: the same records from a folder and from elsewhere; damage and fakes are found."""

import errno
import json
import pickle
import random
import shutil

import numpy as np
import pytest
import torch

from composer_kd.errors import StorageError, StoreError
from composer_kd.stores import Dense, Hidden, Sampled, Store, TopK, to_mds
from composer_kd.stores.files import checksum
from tests.stores.building import FEATURES, Said, build, manifest

streaming = pytest.importorskip('streaming')

SAMPLES = torch.tensor([3, 0, 3, 9])


@pytest.fixture(scope='module', params=['samples', 'tokens'])
def pair(request, tmp_path_factory):
    """A store, and the folder of its copy in several shards."""
    folder = tmp_path_factory.mktemp('mds')
    store = build(folder / 'mapped', manifest(positions=request.param, features=FEATURES, data={'name': 'digits'}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr('composer_kd.stores.mds_writing._SHARD_BYTES', 1000)
        to_mds(store, folder / 'mds')
    assert len(list((folder / 'mds').glob('*.mds'))) > 3
    return store, folder / 'mds'


def assert_same(one, other):
    for view in (0, 1, np.array([1, 0, 1, 0])):
        assert torch.equal(one.logits(view, SAMPLES), other.logits(view, SAMPLES))
        assert np.array_equal(one.digests(view, SAMPLES), other.digests(view, SAMPLES))
        assert np.array_equal(one.lengths(view, SAMPLES), other.lengths(view, SAMPLES))
        for path in FEATURES:
            assert torch.equal(one.features(path, view, SAMPLES), other.features(path, view, SAMPLES))
            assert np.array_equal(one.lengths(view, SAMPLES, path), other.lengths(view, SAMPLES, path))


def test_the_copy_holds_the_same(pair):
    store, folder = pair
    copied = Store(folder)
    copied.verify()
    assert_same(copied, store)
    copied.check({'data': {'name': 'digits'}, 'samples': 10})
    assert_same(pickle.loads(pickle.dumps(copied)), store)
    with pytest.raises(StoreError, match='holds 10 samples'):
        copied.logits(0, torch.tensor([10]))


@pytest.mark.parametrize('form', [Dense('float16'), TopK(3, 2.0), Sampled(5, 2.0), Hidden(6)], ids=repr)
def test_formats_are_read_as_before(tmp_path, form):
    store = build(tmp_path / 'a', manifest(form=form))
    to_mds(store, tmp_path / 'b')
    one, other = (which.logits(1, SAMPLES) for which in (store, Store(tmp_path / 'b')))
    assert torch.equal(*(x if isinstance(x, torch.Tensor) else x.ids for x in (one, other)))


def test_shards_are_fetched_when_they_are_read(pair, tmp_path):
    store, folder = pair
    fetched = Store(folder, local=tmp_path)
    assert fetched.folder.parent == tmp_path
    assert not list(fetched.folder.glob('*.mds'))
    fetched.logits(0, torch.tensor([0]))
    assert len(list(fetched.folder.glob('*.mds'))) == 1
    assert_same(fetched, store)
    shutil.move(folder, tmp_path / 'elsewhere')
    try:
        with pytest.raises(StoreError, match=r'holds no store in MDS.*manifest.json'):
            Store(folder, local=tmp_path)
        assert_same(fetched, store)  # what was fetched is there
    finally:
        shutil.move(tmp_path / 'elsewhere', folder)


def test_a_last_layer_that_could_not_be_fetched_is_fetched_the_next_time(tmp_path):
    store = build(tmp_path / 'mapped', manifest(form=Hidden(6)))
    to_mds(store, tmp_path / 'mds')
    kept = Store(tmp_path / 'mds', local=tmp_path / 'kept').folder
    assert not (kept / 'head.pt').exists()
    (tmp_path / 'mds' / 'head.pt').write_bytes(b'a head')
    assert Store(tmp_path / 'mds', local=tmp_path / 'kept').folder == kept
    assert (kept / 'head.pt').read_bytes() == b'a head'


def test_another_store_at_the_same_place_is_not_mixed_with_the_first(tmp_path):
    for seed in (0, 1):
        of = manifest(data={'seed': seed})
        store = build(tmp_path / f'mapped-{seed}', of, Said(of, seed))
        shutil.rmtree(tmp_path / 'mds', ignore_errors=True)
        to_mds(store, tmp_path / 'mds')
        found = Store(tmp_path / 'mds', local=tmp_path / 'kept')
        assert torch.equal(found.logits(0, SAMPLES), store.logits(0, SAMPLES))


def test_it_is_a_data_set_of_streaming(pair):
    _, folder = pair
    data = streaming.LocalDataset(str(folder))
    assert len(data) == 20
    assert {'digests', 'logits', 'features:pooled'} <= set(data[3])


def copy_of(pair, tmp_path):
    return shutil.copytree(pair[1], tmp_path / 'copy')


def test_twenty_flipped_bits_are_twenty_found(pair, tmp_path):
    folder, chance = copy_of(pair, tmp_path), random.Random(0)
    shards = sorted(folder.glob('*.mds'))
    for _ in range(20):
        file = chance.choice(shards)
        content = bytearray(file.read_bytes())
        before, bit = bytes(content), chance.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        with pytest.raises(StoreError, match=f'{file.name} has another hash'):
            Store(folder).verify()
        file.write_bytes(before)
    Store(folder).verify()


def test_a_damaged_shard_that_was_fetched_is_named(pair, tmp_path):
    folder = copy_of(pair, tmp_path)
    file = sorted(folder.glob('*.mds'))[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match='another hash'):
        Store(folder, local=tmp_path / 'kept').logits(0, torch.tensor([0]))


def test_a_part_of_a_shard_that_an_ended_download_left_is_fetched_anew(pair, tmp_path):
    store, folder = pair
    kept = Store(folder, local=tmp_path / 'kept')
    kept.verify()
    file = sorted(kept.folder.glob('*.mds'))[1]
    file.write_bytes(file.read_bytes()[:100])
    assert_same(Store(folder, local=tmp_path / 'kept'), store)


def test_truncated_and_missing_files_are_found_at_once(pair, tmp_path):
    folder = copy_of(pair, tmp_path)
    file = sorted(folder.glob('*.mds'))[1]
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(StoreError, match='truncated'):
        Store(folder)
    file.unlink()
    with pytest.raises(StoreError, match='is missing'):
        Store(folder)
    file.write_bytes(content)
    (folder / 'index.json').write_text((folder / 'index.json').read_text() + ' ')
    with pytest.raises(StoreError, match='is not the index of the manifest'):
        Store(folder)


@pytest.mark.parametrize(
    'change',
    [
        lambda of: of['shards'][0].update(column_encodings=['pkl'] * len(of['shards'][0]['column_names'])),
        lambda of: of['shards'][0].update(column_names=['logits']),
        lambda of: of['shards'][0]['raw_data'].update(basename='../../etc/passwd'),
        lambda of: of['shards'][0]['raw_data'].update(basename='/etc/passwd'),
        lambda of: of['shards'][0]['raw_data'].update(bytes=-1),
        lambda of: of['shards'][0].update(samples=10**9),
        lambda of: of['shards'][0].update(compression='zstd', zip_data={'basename': 'a', 'bytes': 1, 'hashes': {}}),
        lambda of: of['shards'][0].update(format='json'),
        lambda of: of['shards'][0]['raw_data'].update(hashes={}),
        lambda of: of.update(shards=3),
        lambda of: of.pop('version'),
    ],
)
@pytest.mark.parametrize('remote', [False, True])
def test_a_hostile_index_is_refused(pair, tmp_path, change, remote):
    """With the checksums that belong to it."""
    folder = copy_of(pair, tmp_path)
    index = json.loads((folder / 'index.json').read_text())
    change(index)
    (folder / 'index.json').write_text(json.dumps(index))
    content = json.loads((folder / 'manifest.json').read_text())['manifest']
    content['index'] = checksum((folder / 'index.json').read_bytes())
    right = checksum(json.dumps(content, sort_keys=True).encode())
    (folder / 'manifest.json').write_text(json.dumps({'checksum': right, 'manifest': content}))
    with pytest.raises(StoreError):
        Store(folder, local=tmp_path / 'kept' if remote else None).verify()


def test_other_files_are_left_alone(pair, tmp_path):
    store, _ = pair
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'notes.txt').write_text('mine')
    with pytest.raises(StoreError, match='is there already'):
        to_mds(store, tmp_path / 'mine')
    assert [file.name for file in (tmp_path / 'mine').iterdir()] == ['notes.txt']


def test_what_is_uploaded_can_be_fetched_and_is_not_replaced(pair, tmp_path, monkeypatch):
    """Streaming takes a folder in the place of an object store."""
    store, _ = pair
    monkeypatch.setattr('composer_kd.stores.mds_writing.is_remote', lambda _: True)
    remote = tmp_path / 'remote'
    to_mds(store, remote)
    assert_same(Store(remote, local=tmp_path / 'kept'), store)
    with pytest.raises(StoreError, match='holds a store or another data set already'):
        to_mds(store, remote)


def test_a_data_set_of_streaming_is_not_replaced(pair, tmp_path, monkeypatch):
    store, _ = pair
    with streaming.MDSWriter(out=str(tmp_path / 'theirs'), columns={'x': 'int'}) as writer:
        writer.write({'x': 3})
    before = {file.name: file.read_bytes() for file in (tmp_path / 'theirs').iterdir()}
    monkeypatch.setattr('composer_kd.stores.mds_writing.is_remote', lambda _: True)
    with pytest.raises(StoreError, match=r'another data set already: index\.json'):
        to_mds(store, tmp_path / 'theirs')
    assert {file.name: file.read_bytes() for file in (tmp_path / 'theirs').iterdir()} == before


def test_a_copy_that_fails_leaves_nothing(pair, tmp_path, monkeypatch):
    store, _ = pair

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('composer_kd.stores.mds_writing.write_manifest', fail)
    with pytest.raises(KeyboardInterrupt):
        to_mds(store, tmp_path / 'new')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('remote', [False, True])
def test_a_full_disk_is_said(pair, tmp_path, monkeypatch, remote):
    store, _ = pair

    def fail(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('composer_kd.stores.mds_writing.write_manifest', fail)
    monkeypatch.setattr('composer_kd.stores.mds_writing.is_remote', lambda _: remote)
    with pytest.raises(StorageError, match='is full'):
        to_mds(store, tmp_path / 'new')
