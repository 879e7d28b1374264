"""``route:`` in a YAML: a column of the batch, the path of a function, or a component with options."""

import pytest
import torch
import torch.nn.functional as F
from composer.models import ComposerModel
from torch.utils.data import default_collate

from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.models import ShallowCNN
from composer_kd.runs.train import train
from composer_kd.workflows.cache import cache

KD = 'yamls/digits/kd_two_teachers.yaml'
QUICK = ['progress_bar=false', 'train_loader.dataset.subset=128', 'eval_loader=null', 'max_duration=2ba']
ROUTE = 'algorithms.distillation.route='


def parity(batch, index):
    return batch[1] % 2


class Every:
    def __init__(self, period=2):
        self.period = period

    def __call__(self, batch, index):
        return torch.where(index % self.period == 0, 0, 1)


def only_batch(batch):
    return batch


def named(samples):
    images, labels = default_collate(samples)
    return {'images': images, 'labels': labels, 'teacher_id': labels % 2}


def plain(samples):
    batch = named(samples)
    del batch['teacher_id']
    return batch


def of_labels(batch, index):
    return batch['labels'] % 2


class Named(ComposerModel):
    def __init__(self):
        super().__init__()
        self.net = ShallowCNN(in_channels=1, num_classes=10, image_size=8)

    def forward(self, batch):
        return self.net(batch['images'])

    def loss(self, outputs, batch):
        return F.cross_entropy(outputs, batch['labels'])


@pytest.fixture(scope='module')
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp('teachers')
    for key, seed in (('teacher', 1), ('teacher_2', 2)):
        settings = [*QUICK, f'seed={seed}', f'save_folder={folder / key}']
        train(load_config('yamls/digits/teacher.yaml', settings), quiet=True)
    return [f'variables.{key}={folder / key / "latest-rank0.pt"}' for key in ('teacher', 'teacher_2')]


def kd(teachers, *overrides):
    settings = [*QUICK, 'save_folder=null', 'algorithms.distillation.n_teachers_to_sample=null', *teachers, *overrides]
    return train(load_config(KD, settings), quiet=True)['loss/train/kd']


def test_a_function_a_component_and_a_column(teachers):
    plain, by_class = kd(teachers), kd(teachers, f'{ROUTE}{__name__}.parity')
    assert by_class != plain
    numbered = ['train_loader.with_index=true', f'{ROUTE}{{name: {__name__}.Every, period: 3}}']
    assert kd(teachers, *numbered) not in (plain, by_class)
    model = f'model={{name: {__name__}.Named}}'
    by_column = kd(teachers, model, f'train_loader.collate_fn={__name__}.named', f'{ROUTE}teacher_id')
    assert by_column == kd(teachers, model, f'train_loader.collate_fn={__name__}.plain', f'{ROUTE}{__name__}.of_labels')


SEEN = []


def seeing(model, batch):
    SEEN.append(set(batch))
    return model(batch['images'])


def test_no_teacher_gets_the_column_that_says_whose_a_sample_is(teachers, tmp_path):
    """Neither in training nor where a store of it is built, and measured."""
    SEEN.clear()
    column = [f'model={{name: {__name__}.Named}}', f'train_loader.collate_fn={__name__}.named', f'{ROUTE}teacher_id']
    column += [f'algorithms.distillation.teachers.{number}.forward={__name__}.seeing' for number in (0, 1)]
    kd(teachers, *column)
    assert SEEN
    every = 'algorithms.distillation.n_teachers_to_sample=null'
    cache(load_config(KD, [*QUICK, 'save_folder=null', every, *teachers, *column]), out=tmp_path / 'stores')
    assert all(keys == {'images', 'labels'} for keys in SEEN)


@pytest.mark.parametrize(
    ('written', 'said'),
    [
        (f'{__name__}.parityy', r'route: .* has no .parityy'),
        (f'{__name__}.only_batch', r'expected a function of \(batch, index\)'),
        ('torch.hub.load', 'is not called|is no '),
        ('builtins.eval', 'is not imported|is no '),
        ('3', 'route: expected a string, got 3'),
        (f'{{name: {__name__}.Every, periods: 3}}', "did you mean 'period'"),
    ],
)
def test_what_a_route_may_be_is_checked_before_anything_is_built(written, said):
    with pytest.raises(ConfigError, match=said):
        load_config(KD, [f'{ROUTE}{written}'])
