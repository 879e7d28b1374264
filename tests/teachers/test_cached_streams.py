"""Stored teachers of data sets that are streamed: samples are found by their index in the stream."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from composer_kd import CachedTeacher, Distillation, KLDivergence, build_store
from composer_kd.data import IndexedSamples
from composer_kd.errors import StoreError
from composer_kd.models import IndexedClassifier
from composer_kd.stores import Dense
from tests.distilling import cnn
from tests.helpers import Recorder, train

streaming = pytest.importorskip('streaming')


def written(folder, seed=0):
    chance = np.random.default_rng(seed)
    columns = {'x': 'ndarray:float32:3,8,8', 'y': 'int'}
    with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=4000) as writer:
        for number in range(24):
            writer.write({'x': chance.standard_normal((3, 8, 8), np.float32), 'y': number % 4})
    return folder


class Pictures(IndexedSamples, streaming.StreamingDataset):
    def get_item(self, sample_id, retry=7):
        sample = super().get_item(sample_id, retry)
        return torch.from_numpy(sample['x'].copy()), sample['y']


def pictures(folder, **options):
    return Pictures(local=str(folder), batch_size=8, **options)


def test_a_shuffled_stream_is_taught_as_by_the_live_teacher(tmp_path):
    data = written(tmp_path / 'data')
    student = IndexedClassifier(cnn(4, 1), num_classes=4)
    build_store(tmp_path / 'store', cnn(8, 2), student, pictures(data), Dense('float32'), batch_size=7)

    def go(teacher):
        recorder = Recorder()
        loader = DataLoader(pictures(data, shuffle=True), 8)
        model = IndexedClassifier(cnn(4, 1), num_classes=4)
        train(model, loader, [Distillation(teacher, KLDivergence(2.0))], [recorder], max_duration='2ep')
        return [batch['kd'] for batch in recorder.batches]

    stored = go(CachedTeacher(tmp_path / 'store'))
    assert len(stored) == 6
    assert stored == pytest.approx(go(cnn(8, 2)), rel=1e-4, abs=1e-6)


def test_another_stream_is_refused(tmp_path):
    student = IndexedClassifier(cnn(4, 1), num_classes=4)
    build_store(tmp_path / 'store', cnn(8, 2), student, pictures(written(tmp_path / 'data')))
    other = DataLoader(pictures(written(tmp_path / 'other', seed=1)), 8)
    algorithm = Distillation(CachedTeacher(tmp_path / 'store'), KLDivergence(2.0))
    with pytest.raises(StoreError, match='inputs'):
        train(student, other, [algorithm])
