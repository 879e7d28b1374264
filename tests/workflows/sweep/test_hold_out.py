"""``train_loader.hold_out`` in a run's YAML: any data set that a YAML can name."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

from composer_kd.config.load import load_config
from composer_kd.data import digits
from composer_kd.errors import ConfigError
from composer_kd.runs.build import build_trainer
from composer_kd.runs.loaders import build_loader, evaluation_data

OWN = 'tests.workflows.sweep.test_hold_out.own'


class _Own(Dataset):
    """Digits without `targets`, augmented under a name of their own."""

    def __init__(self, noise):
        self.digits, self.noise = digits(subset=60), noise
        self.num_classes = 10

    def __len__(self):
        return 60

    def __getitem__(self, index):
        x, y = self.digits[index]
        return x + self.noise, y


def own(noise: float = 0.0, other: bool = False):
    return _Own(noise)


def config(*overrides):
    quiet = ['save_folder=null', 'progress_bar=false', 'max_duration=1ba']
    return load_config('yamls/digits/student.yaml', [*quiet, *overrides])


def images(loader):
    return {tuple(x.flatten().tolist()) for batch in loader for x in batch[0]}


def loaders(config):
    evaluation = build_loader(evaluation_data(config.train_loader, config.eval_loader), 64, 0, train=False)
    return build_loader(config.train_loader, 64, 0, train=True), evaluation


@pytest.mark.parametrize(
    'overrides',
    [
        ['train_loader.hold_out=0.2'],
        ['train_loader.hold_out=0.2', 'train_loader.hold_out_seed=4', 'train_loader.with_index=true'],
        ['train_loader.hold_out=0.3', 'train_loader.dataset.n_labels=200', 'train_loader.dataset.seed=1'],
        ['train_loader.hold_out=0.2', f'train_loader.dataset={{name: {OWN}}}'],
        ['train_loader.hold_out=0.2', 'eval_loader=null'],
    ],
)
def test_no_sample_is_in_both_and_none_is_lost(overrides):
    checked = config(*overrides)
    train, evaluation = loaders(checked)
    whole = build_loader(
        config(*[o for o in overrides if not o.startswith('train_loader.hold_out')]).train_loader, 64, 0, train=True
    )
    assert not images(train) & images(evaluation)
    assert images(train) | images(evaluation) == images(whole)
    assert all((batch[1] != -100).all() for batch in evaluation)


def test_what_is_held_out_is_not_augmented():
    checked = config('train_loader.hold_out=0.2', 'train_loader.dataset.augment=true')
    evaluation = loaders(checked)[1]
    assert images(evaluation) == images(evaluation) == images(loaders(config('train_loader.hold_out=0.2'))[1])


def test_the_evaluation_data_may_be_written_out():
    """For a data set whose augmentation goes by another name."""
    both = ['train_loader.hold_out=0.2', 'eval_loader.hold_out=0.2', f'eval_loader.dataset={{name: {OWN}}}']
    checked = config(*both, f'train_loader.dataset={{name: {OWN}, noise: 0.5}}')
    trainer = build_trainer(checked)
    evaluation = trainer.state.evaluators[0].dataloader.dataloader
    assert images(evaluation) == images(
        loaders(config('train_loader.hold_out=0.2', f'train_loader.dataset={{name: {OWN}}}'))[1]
    )
    trainer.close()


def test_two_parts_that_do_not_belong_together_are_refused():
    both = ['train_loader.hold_out=0.2', 'eval_loader.hold_out=0.2', 'eval_loader.dataset.split=train']
    build_trainer(config(*both)).close()
    for other in ('eval_loader.hold_out_seed=1', 'eval_loader.hold_out=0.3', 'eval_loader.dataset.subset=500'):
        with pytest.raises(ConfigError, match='are not the two parts of one data set'):
            build_trainer(config(*both, other))


def test_faults_are_said_with_their_key():
    with pytest.raises(ConfigError, match=r'eval_loader.hold_out: needs train_loader.hold_out too'):
        config('eval_loader.hold_out=0.1')
    with pytest.raises(ConfigError, match=r'train_loader.hold_out: expected a number or null that is between 0 and 1'):
        config('train_loader.hold_out=1.5')
    with pytest.raises(ConfigError, match=r'train_loader.hold_out: 0.01 of 20 labelled samples is not a single one'):
        build_trainer(config('train_loader.hold_out=0.01', 'train_loader.dataset.n_labels=20'))


def test_the_same_samples_whatever_the_run_seed():
    first, second = (images(loaders(config('train_loader.hold_out=0.2', f'seed={seed}'))[1]) for seed in (1, 2))
    assert first == second


def test_the_run_is_evaluated_on_what_is_held_out():
    trainer = build_trainer(config('train_loader.hold_out=0.2'))
    trainer.fit()
    seen = trainer.state.eval_metrics['eval']['MulticlassAccuracy']
    assert int(torch.as_tensor(seen.tp + seen.fn).sum()) == round(0.2 * 1297)
    trainer.close()
