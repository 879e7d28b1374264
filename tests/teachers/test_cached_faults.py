"""Stored teachers in the wrong place: other data, tokenizers and teachers, full disks, and hostile files."""

import errno
import os
import pickle
import types

import pytest
import torch
from composer.algorithms import CutMix, MixUp
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import CachedTeacher, ConfigError, Distillation, KLDivergence, build_store
from composer_kd.data import ImageTensors, Indexed
from composer_kd.errors import ComposerKDError, StorageError, StoreError
from composer_kd.models import IndexedClassifier
from composer_kd.stores import Dense, Hidden, Store, TopK
from composer_kd.stores.files import checksum
from tests.distilling import cnn, tokens
from tests.helpers import TokenDataset, TokenModel, train
from tests.stores.building import content


def pictures(order=None, n=24):
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    order = list(range(n)) if order is None else order
    return ImageTensors(images[order], [i % 4 for i in order], 4, (0.5,) * 3, (0.25,) * 3)


def student():
    return IndexedClassifier(cnn(4, 1), num_classes=4)


def go(folder, data, algorithms=()):
    algorithm = Distillation(CachedTeacher(folder), KLDivergence(2.0))
    train(student(), DataLoader(Indexed(data), 8), [algorithm, *algorithms])


def test_another_order_is_refused(tmp_path):
    build_store(tmp_path, cnn(8, 2), student(), pictures())
    with pytest.raises(StoreError, match='labels'):
        go(tmp_path, pictures(list(range(23, -1, -1))))
    swapped = [4, 1, 2, 3, 0, *range(5, 24)]  # of one class, and the fingerprint looks at inputs too
    with pytest.raises(StoreError, match='inputs'):
        go(tmp_path, pictures(swapped))


def test_another_transform_is_refused(tmp_path):
    class Scaled(TensorDataset):
        def __init__(self, by):
            super().__init__(torch.ones(24, 3, 8, 8), torch.arange(24) % 4)
            self.transform = by

        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return self.transform * x, y

    build_store(tmp_path, cnn(8, 2), student(), Scaled(2.0))
    with pytest.raises(StoreError, match='transforms: stored'):
        go(tmp_path, Scaled(3.0))


def test_another_tokenizer_is_refused(tmp_path):
    def model(words, seed=0):
        made = TokenModel(seed=seed)
        made.tokenizer = types.SimpleNamespace(get_vocab=lambda: {word: i for i, word in enumerate(words)})
        return made

    data = TokenDataset(**tokens(attention=True).columns, index=torch.arange(16))
    build_store(tmp_path, model('abcdefghijk', 5), model('abcdefghijk'), data)
    algorithm = Distillation(CachedTeacher(tmp_path), KLDivergence(2.0))
    with pytest.raises(StoreError, match=r'labels\.vocabulary'):
        train(model('kjihgfedcba'), DataLoader(data, 8), [algorithm])


def test_a_build_goes_on_with_the_same_teacher_alone(tmp_path):
    class Stop(Exception):
        pass

    def stop(done, every):
        if done:
            raise Stop

    with pytest.raises(Stop):
        build_store(tmp_path, cnn(8, 2), student(), pictures(), progress=stop, batch_size=8)
    for other, part in ((cnn(8, 3), 'teacher.weights'), (cnn(6, 2), 'teacher.weights')):
        with pytest.raises(StoreError, match=part):
            build_store(tmp_path, other, student(), pictures(), resume=True, batch_size=8)
    with pytest.raises(StoreError, match=r'data\.'):
        build_store(tmp_path, cnn(8, 2), student(), pictures(list(range(23, -1, -1))), resume=True, batch_size=8)
    build_store(tmp_path, cnn(8, 2), student(), pictures(), resume=True, batch_size=8)
    go(tmp_path, pictures())


def test_a_full_disk_ends_the_build_which_goes_on_when_there_is_room(tmp_path, monkeypatch):
    options = {'format': TopK(2, 2.0), 'features': ['4'], 'batch_size': 8}
    build_store(tmp_path / 'undisturbed', cnn(8, 2), student(), pictures(), **options)
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(StorageError, match=r'the disk of the store .* is full.*resume the build'):
        build_store(tmp_path / 'full', cnn(8, 2), student(), pictures(), **options)
    monkeypatch.undo()
    build_store(tmp_path / 'full', cnn(8, 2), student(), pictures(), resume=True, **options)
    assert content(tmp_path / 'full') == content(tmp_path / 'undisturbed')


@pytest.mark.parametrize('algorithm', [MixUp(), CutMix()], ids=lambda one: type(one).__name__)
def test_mixed_batches_are_refused_with_the_way_out(tmp_path, algorithm):
    build_store(tmp_path, cnn(8, 2), student(), pictures())
    with pytest.raises(ConfigError, match=rf'(?s){type(algorithm).__name__}.*SeededViews'):
        go(tmp_path, pictures(), [algorithm])


class Evil:
    """Says that it was run."""

    def __reduce__(self):
        return os.mkdir, (Evil.folder,)


@pytest.fixture
def evil(tmp_path):
    Evil.folder = str(tmp_path / 'was run')
    yield pickle.dumps(Evil())
    assert not os.path.exists(Evil.folder)


def test_a_hostile_shard_runs_nothing(tmp_path, evil):
    """With the checksum that belongs to it."""
    import json

    folder = tmp_path / 'store'
    store = build_store(folder, cnn(8, 2), student(), pictures(), Dense('float32'))
    bytes_of = (evil + bytes(store.nbytes))[: (folder / 'logits.bin').stat().st_size]
    (folder / 'logits.bin').write_bytes(bytes_of)
    said = json.loads((folder / 'manifest.json').read_text())['manifest']
    said['shards'][0]['checksums']['logits'] = checksum(bytes_of)
    right = checksum(json.dumps(said, sort_keys=True).encode())
    (folder / 'manifest.json').write_text(json.dumps({'checksum': right, 'manifest': said}))
    Store(folder).logits(0, torch.arange(24))
    (folder / 'manifest.json').write_bytes(evil)
    with pytest.raises(StoreError):
        Store(folder)


def test_a_hostile_last_layer_runs_nothing(tmp_path, evil):
    folder = tmp_path / 'store'
    data = TokenDataset(**tokens(attention=True).columns)
    teacher = TokenModel(seed=5)
    build_store(folder, teacher, TokenModel(), data, Hidden(5), head='head')
    torch.save({'weight': Evil(), 'bias': torch.zeros(11)}, folder / 'head.pt')
    with pytest.raises(ComposerKDError):
        CachedTeacher(folder)
    torch.save({'weight': torch.zeros(11, 5), 'bias': torch.zeros(11)}, folder / 'head.pt')
    with pytest.raises(ComposerKDError, match='another last layer'):
        CachedTeacher(folder)
