"""Epochs of so many samples, in runs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from composer import Callback
from torch.utils.data import DistributedSampler, default_collate

from composer_kd.config.load import load_config
from composer_kd.config.markers import Component
from composer_kd.config.schema import LoaderConfig
from composer_kd.data import digits
from composer_kd.errors import ConfigError
from composer_kd.runs.loaders import build_loader
from composer_kd.runs.train import train
from tests.helpers import EventSpy

FEW = ['train_loader.dataset.n_labels=20', 'train_loader.dataset.keep_unlabelled=false']


def student(*overrides):
    return load_config('yamls/digits/student.yaml', ['progress_bar=false', *FEW, *overrides])


def loader(train=True, batch_size=8, **settings):
    dataset = Component('dataset', 'digits', settings.pop('options', {}), 'train_loader.dataset')
    return build_loader(LoaderConfig(dataset, **settings), batch_size, seed=0, train=train)


def test_few_labels_come_more_often_and_make_as_many_steps(tmp_path):
    metrics = train(student('train_loader.samples_per_epoch=150', 'max_duration=2ep', f'save_folder={tmp_path}'))
    assert [metrics[f'time/{unit}'] for unit in ('epoch', 'batch', 'sample')] == [2, 6, 300]


def test_with_what_is_held_out_and_with_numbers_samples_keep_theirs():
    rest = loader(samples_per_epoch=250, hold_out=0.2, with_index=True, options={'subset': 125})
    seen = []
    for epoch in range(2):
        rest.sampler.set_epoch(epoch)
        seen += [batch[2] for batch in rest]
    assert Counter(index for batch in seen for index in batch.tolist()) == dict.fromkeys(range(100), 5)
    x, y, index = next(iter(rest))
    parts = digits('train', subset=125)
    expected = default_collate([parts[rest.dataset.dataset.indices[i]] for i in index.tolist()])
    assert (x == expected[0]).all()
    assert (y == expected[1]).all()


def test_an_evaluation_goes_through_its_samples_once():
    assert len(loader(train=False, samples_per_epoch=1000, options={'split': 'test', 'subset': 50}).sampler) == 50
    with pytest.raises(ConfigError, match=r'eval_loader.samples_per_epoch: an evaluation goes through .* leave it out'):
        student('eval_loader.samples_per_epoch=9')


def test_a_batch_may_be_larger_than_the_data_set_but_not_than_an_epoch():
    (x, _) = next(iter(loader(samples_per_epoch=70, batch_size=64, drop_last=True, options={'subset': 10})))
    assert len(x) == 64
    with pytest.raises(ConfigError, match='50 samples make no batch of 64'):
        loader(samples_per_epoch=50, batch_size=64, drop_last=True, options={'subset': 100})


@pytest.mark.parametrize('samples', ['0', '-1', 'many', '2.5'])
def test_other_numbers_are_refused(samples):
    with pytest.raises(ConfigError, match=r'train_loader\.samples_per_epoch: expected'):
        student(f'train_loader.samples_per_epoch={samples}')


def test_a_stopped_run_goes_on_in_the_middle_of_an_epoch(tmp_path):
    class Stop(Callback):
        def batch_checkpoint(self, state, logger):
            if int(state.timestamp.batch) == 6:
                raise KeyboardInterrupt

    same = ['train_loader.samples_per_epoch=250', 'max_duration=3ep', 'autoresume=true', 'save_interval=1ba']
    straight = train(student(*same, f'save_folder={tmp_path / "straight"}'))
    stopped = student(*same, f'save_folder={tmp_path / "stopped"}')
    with pytest.raises(KeyboardInterrupt):
        train(stopped, [Stop()])
    resumed = train(stopped)
    assert resumed['time/batch'] == straight['time/batch'] == 12
    for name in ('metrics/eval/CrossEntropy', 'loss/train/total'):
        assert resumed[name] == straight[name]


VIEWS = ['train_loader.views=3', 'train_loader.dataset.augment=true']


def test_views_come_with_what_is_held_out_and_numbers():
    def seen(**settings):
        rest = loader(hold_out=0.2, with_index=True, options={'subset': 125, 'augment': True}, **settings)
        for epoch in range(4):
            rest.sampler.set_epoch(epoch)
            for x, y, index in rest:
                yield from (((epoch, i), (image, label)) for image, label, i in zip(x, y.tolist(), index.tolist()))

    once = dict(seen(views=3, shuffle=False))
    again = dict(seen(views=3, views_seed=0))
    other = dict(seen(views=3, views_seed=1))
    assert len(once) == 400
    assert all(label == again[key][1] and (image == again[key][0]).all() for key, (image, label) in once.items())
    assert all((once[0, i][0] == once[3, i][0]).all() for i in range(100))
    assert sum((once[0, i][0] == once[1, i][0]).all() for i in range(100)) < 50
    assert sum((once[key][0] == other[key][0]).all() for key in once) < 200


def test_an_evaluation_has_no_views():
    assert type(loader(train=False, views=2).sampler) is DistributedSampler
    with pytest.raises(ConfigError, match=r'eval_loader\.views: an evaluation needs .* leave it out'):
        student('eval_loader.views=2')


@pytest.mark.parametrize(
    ('setting', 'said'),
    [('views=0', 'expected'), ('views_seed=2', 'needs views'), ('views_seed=-1', 'expected')],
)
def test_other_views_are_refused(setting, said):
    with pytest.raises(ConfigError, match=rf'train_loader\.views.*{said}'):
        student(f'train_loader.{setting}')


@pytest.mark.parametrize('workers', [0, 2])
def test_views_are_the_same_in_a_run_that_was_stopped_within_an_epoch(tmp_path, workers):
    class Stop(Callback):
        def batch_checkpoint(self, state, logger):
            if int(state.timestamp.batch) == 6:
                raise KeyboardInterrupt

    same = [*VIEWS, 'max_duration=5ep', 'autoresume=true', 'save_interval=1ba', 'train_loader.samples_per_epoch=250']
    same.append(f'train_loader.num_workers={workers}')
    losses = {}

    def record(name):
        seen = losses[name] = {}
        return EventSpy('batch_end', lambda state: seen.update({int(state.timestamp.batch): _plain(state)}))

    train(student(*same, f'save_folder={tmp_path / "straight"}'), [record('straight')])
    stopped = student(*same, f'save_folder={tmp_path / "stopped"}')
    with pytest.raises(KeyboardInterrupt):
        train(stopped, [Stop()])
    train(stopped, [record('resumed')])
    assert len(losses['straight']) == 20
    assert losses['resumed'] == {batch: loss for batch, loss in losses['straight'].items() if batch > 5}
    assert len(set(losses['straight'].values())) == 20


def _plain(state):
    return state.batch[0].double().sum().item(), float(
        state.loss['total'] if isinstance(state.loss, dict) else state.loss
    )


class Noisy:
    """Samples with noise from a generator of their own."""

    rng = np.random.default_rng(0)
    targets = (0, 1, 0, 1)

    def __init__(self):
        self.own = self.rng

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.rng.normal(size=3), index % 2


def test_data_that_cannot_be_repeated_is_refused_with_the_key():
    dataset = Component('dataset', f'{__name__}.Noisy', {}, 'train_loader.dataset')
    said = r'train_loader\.views: SeededViews: 4 of 4 samples differ .* own \(numpy.random._generator.Generator\)'
    with pytest.raises(ConfigError, match=said):
        build_loader(LoaderConfig(dataset, views=2), 2, seed=0, train=True)
