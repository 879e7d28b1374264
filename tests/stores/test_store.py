"""Reading: any samples of any view, in any order; damage, links and other stores are found."""

import os
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer_kd.errors import StoreError
from composer_kd.losses.sparse import SampledLogits, SparseLogits
from composer_kd.stores import Sampled, Store, TopK
from tests.stores.building import FEATURES, Said, build, manifest


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_samples_come_back(tmp_path_factory, data):
    draw = data.draw
    of = manifest(
        samples=draw(st.integers(1, 20)),
        views=draw(st.integers(1, 3)),
        shard_samples=draw(st.integers(1, 25)),
        positions=draw(st.sampled_from(['samples', 'tokens'])),
        features=draw(st.sampled_from([{}, FEATURES])),
    )
    said = Said(of, seed=draw(st.integers(0, 9)))
    ranks = draw(st.integers(1, 3))
    store = build(tmp_path_factory.mktemp('store'), of, said, batch=draw(st.integers(1, 30)), ranks=ranks)
    samples = draw(st.lists(st.integers(0, of.samples - 1), max_size=9))
    views = draw(st.lists(st.integers(0, of.views - 1), min_size=len(samples), max_size=len(samples)))
    rows = np.array(views, np.int64) * of.samples + np.array(samples, np.int64)
    asked = np.array(views, np.int64), torch.tensor(samples, dtype=torch.int64)
    assert torch.equal(store.logits(*asked), said.logits[said.positions(rows)])
    assert np.array_equal(store.digests(*asked), said.digests[rows])
    assert np.array_equal(store.lengths(*asked), said.lengths[rows])
    for path, feature in of.features.items():
        assert torch.equal(store.features(path, *asked), said.features[path][said.places(path, rows)])
        if feature.per == 'token':
            assert np.array_equal(store.lengths(*asked, path), said.tokens[path][rows])
    assert torch.equal(store.logits(0, torch.arange(of.samples)), said.logits[said.positions(range(of.samples))])


@pytest.mark.parametrize(('form', 'kind'), [(TopK(3, 2.0), SparseLogits), (Sampled(5, 2.0), SampledLogits)])
@pytest.mark.parametrize('positions', ['samples', 'tokens'])
def test_sparse_formats_are_read_as_targets(tmp_path, form, kind, positions):
    of = manifest(form=form, positions=positions)
    said = Said(of)
    target = build(tmp_path, of, said).logits(1, np.array([3, 0]))
    places = said.positions([13, 10])
    assert isinstance(target, kind)
    assert target.shape == (len(places), of.classes)
    assert target.temperature == 2.0
    if positions == 'samples':
        again = form.decode(form.encode(said.logits[places], np.array([13, 10])), of.classes)
        assert torch.equal(target.ids, again.ids)


def test_a_sample_has_other_draws_in_another_view(tmp_path):
    of = manifest(samples=1, views=64, form=Sampled(8, 1.0))
    said = Said(of)
    said.logits[:] = 0
    ids = build(tmp_path, of, said).logits(np.arange(64), np.zeros(64, np.int64)).ids
    assert len(torch.unique(ids, dim=0)) > 60


@pytest.mark.parametrize(
    ('view', 'samples'),
    [(0, [10]), (0, [-1]), (2, [0]), (-1, [0]), ([0, 2], [0, 0]), ([0], [1, 2]), (0, [[1]]), (0, [0.5])],
)
def test_other_samples_and_views_are_refused(tmp_path, view, samples):
    store = build(tmp_path, manifest())
    for read in (store.logits, store.digests, store.lengths):
        with pytest.raises(StoreError, match=r'holds (10 samples|2 views)|expected'):
            read(np.array(view), np.array(samples))


def test_features_that_are_not_stored_are_refused(tmp_path):
    store = build(tmp_path, manifest(features=FEATURES))
    with pytest.raises(StoreError, match="did you mean 'layer4:input'"):
        store.features('layer4:inputs', 0, np.array([0]))


def test_a_store_may_hold_features_alone(tmp_path):
    of = manifest(features=FEATURES)
    of = type(of)(**{**vars(of), 'format': None})
    said = Said(of)
    said_of, said.of = said.of, lambda rows: {**said_of(rows), 'logits': None}
    store = build(tmp_path, of, said)
    assert torch.equal(store.features('pooled', 1, np.array([2])), said.features['pooled'][[12]])
    with pytest.raises(StoreError, match='features alone'):
        store.logits(0, np.array([0]))


def test_reading_logits_touches_no_features(tmp_path):
    store = build(tmp_path, manifest(features=FEATURES))
    store.logits(0, np.arange(10))
    readers = store.records._readers
    assert not any(readers[name]._verified.any() for name in readers if name.startswith('features'))


def test_a_store_can_be_pickled(tmp_path):
    store = build(tmp_path, manifest())
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    samples = np.arange(5)
    assert torch.equal(pickle.loads(pickled).logits(1, samples), store.logits(1, samples))


def read_all(folder):
    store = Store(folder)
    for view in range(store.manifest.views):
        samples = np.arange(store.manifest.samples)
        store.logits(view, samples)
        store.digests(view, samples)
        for path in store.manifest.features:
            store.features(path, view, samples)


@pytest.mark.parametrize('positions', ['samples', 'tokens'])
def test_twenty_flipped_bits_are_twenty_found(tmp_path, positions):
    build(tmp_path, manifest(samples=50, positions=positions, features=FEATURES))
    read_all(tmp_path)
    chance = random.Random(0)
    files = sorted(file for file in tmp_path.iterdir() if file.suffix in ('.bin', '.json'))
    assert len(files) >= 6
    for turn in range(20):
        file = files[turn] if turn < len(files) else chance.choice(files)
        whole = file.read_bytes()
        bit = chance.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(StoreError):
            read_all(tmp_path)
        file.write_bytes(whole)
    read_all(tmp_path)


def test_damage_is_found_where_it_is_read_and_named(tmp_path):
    build(tmp_path, manifest(samples=12, views=1, shard_samples=4))
    file = tmp_path / 'logits.bin'
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    store = Store(tmp_path)
    store.logits(0, np.arange(8))
    for _ in range(2):
        with pytest.raises(StoreError, match=r'logits.bin: shard 2 \(records 8 to 11\) has another checksum'):
            store.logits(0, np.array([1, 9]))
    with pytest.raises(StoreError, match='shard 2'):
        store.verify()


@pytest.mark.parametrize('name', ['logits.bin', 'digests.bin', 'spans.bin', 'features-001.bin', 'manifest.json'])
def test_truncated_files_are_found_at_once(tmp_path, name):
    build(tmp_path, manifest(positions='tokens', features=FEATURES))
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size - 1)
    with pytest.raises(StoreError, match=name):
        Store(tmp_path)


def test_missing_files_and_stores_are_named(tmp_path):
    with pytest.raises(StoreError, match='holds no store'):
        Store(tmp_path / 'nowhere')
    build(tmp_path, manifest())
    (tmp_path / 'logits.bin').unlink()
    with pytest.raises(StoreError, match=r'logits.bin is missing'):
        Store(tmp_path)


@pytest.mark.parametrize('name', ['logits.bin', 'manifest.json'])
def test_links_out_of_the_folder_are_refused(tmp_path, name):
    build(tmp_path / 'store', manifest())
    (tmp_path / 'store' / name).rename(tmp_path / name)
    (tmp_path / 'store' / name).symlink_to(tmp_path / name)
    with pytest.raises(StoreError, match='is a link to'):
        Store(tmp_path / 'store')


def test_a_linked_folder_is_fine(tmp_path):
    build(tmp_path / 'store', manifest())
    (tmp_path / 'link').symlink_to(tmp_path / 'store')
    read_all(tmp_path / 'link')
