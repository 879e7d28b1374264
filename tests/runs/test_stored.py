"""The stored teachers of a run are checked before anything is built, and known in comparisons."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from composer_kd import FrozenTeacher, build_store
from composer_kd.config.load import load_config
from composer_kd.data import SeededViews, digits
from composer_kd.errors import ConfigError, StoreError
from composer_kd.models import IndexedClassifier, ShallowCNN
from composer_kd.runs import build
from composer_kd.runs.stored import check_stores, live_teacher, note_teacher
from composer_kd.stores import Dense, TopK, mds

KD, CACHED = 'yamls/digits/kd.yaml', 'yamls/digits/kd_cached.yaml'
SMALL = ['train_loader.dataset.subset=48', 'progress_bar=false', 'save_folder=null']
LOSS = 'algorithms.distillation.kd_loss_fn'
RAMP = '{name: Ramp, initial: 4, final: 1.0, end: 20ep}'


def small():
    torch.manual_seed(3)
    return ShallowCNN(in_channels=1, image_size=8, num_classes=10)


def stored(folder, form, views=None, seed=0):
    data = digits('train', subset=48)
    data = data if views is None else SeededViews(data, views, seed)
    build_store(folder, FrozenTeacher(small(), name='big'), IndexedClassifier(small(), num_classes=10), data, form)
    return folder


@pytest.fixture(scope='module')
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stores')
    stored(folder / 'dense', Dense())
    stored(folder / 'top', TopK(4, 4.0))
    stored(folder / 'views', Dense(), views=2, seed=5)
    return folder


def config(folder, *overrides):
    return load_config(CACHED, [*SMALL, f'variables.store={folder}', *overrides])


def refusal(folder, *overrides):
    with pytest.raises((StoreError, ConfigError)) as said:
        check_stores(config(folder, *overrides))
    return str(said.value)


@pytest.mark.parametrize(
    ('which', 'overrides'),
    [
        ('dense', ()),
        ('dense', (f'{LOSS}.temperature=3',)),
        ('top', ()),
        ('top', (f'{LOSS}=[{{name: KLDivergence}}, {{loss: hint, on: features.0}}]',)),
        ('top', (f'{LOSS}={{loss: {{name: KLDivergence, temperature: 1}}, temperature: 4.0}}',)),
        ('views', ('train_loader.views=2', 'train_loader.views_seed=5')),
    ],
)
def test_what_fits_is_taken(stores, which, overrides):
    check_stores(config(stores / which, *overrides))


@pytest.mark.parametrize(
    ('which', 'overrides', 'said'),
    [
        ('none', (), 'none holds no store'),
        ('top', (f'{LOSS}.temperature=3',), "was stored at the temperature 4, and 'KLDivergence' has 3"),
        ('top', (f'{LOSS}={{loss: {{name: KLDivergence}}, temperature: {RAMP}}}',), 'changes in training'),
        ('dense', ('train_loader.views=3',), 'was built without views, and train_loader.views is 3'),
        ('views', (), 'give train_loader.views=2 and train_loader.views_seed=5, got None and 0'),
        ('views', ('train_loader.views=2',), 'got 2 and 0'),
    ],
)
def test_what_does_not_fit_is_refused_with_the_key(stores, which, overrides, said):
    found = refusal(stores / which, *overrides)
    assert said in found
    assert found.startswith('algorithms.distillation.teachers.0: ')


def test_an_unfinished_store_is_refused(stores, tmp_path):
    (tmp_path / 'unfinished.json').write_text('{}')
    assert '--resume' in refusal(tmp_path)


def test_all_faults_are_said_together(stores):
    both = f'algorithms.distillation.teachers=[{{cache: {stores}/none}}, {{cache: {stores}/views}}]'
    found = refusal(stores / 'dense', both)
    assert 'teachers.0: ' in found
    assert 'teachers.1: ' in found


def test_nothing_is_built_before(stores, monkeypatch):
    monkeypatch.setattr(build, 'build_model', lambda *args: pytest.fail('the student was built'))
    with pytest.raises(StoreError, match='temperature 4'):
        build.build_trainer(config(stores / 'top', f'{LOSS}.temperature=3'))


def test_other_data_is_refused_before_training(stores):
    with pytest.raises(StoreError, match='length: stored 48, now 40'):
        build.build_trainer(config(stores / 'dense', 'train_loader.dataset.subset=40')).fit()


def test_the_model_of_a_store_is_known(stores, tmp_path):
    (teacher,) = load_config(KD).algorithms['distillation'].options['teachers']
    assert live_teacher(tmp_path) is None
    note_teacher(tmp_path, teacher)
    found = live_teacher(tmp_path)
    assert (found.model.name, found.model.options, found.checkpoint) == (
        teacher.model.name, teacher.model.options, teacher.checkpoint,
    )  # fmt: skip
    assert dataclasses.replace(found, model=teacher.model) == teacher


def test_the_model_of_a_store_elsewhere_is_known(stores, tmp_path, monkeypatch):
    def fetch(streaming, remote, folder, name):
        if not (tmp_path / remote.removeprefix('s3://') / name).exists():
            raise StoreError(f'no {name}')
        shutil.copyfile(tmp_path / remote.removeprefix('s3://') / name, folder / name)

    monkeypatch.setattr(mds, 'import_streaming', lambda: None)
    monkeypatch.setattr(mds, '_fetch', fetch)
    (teacher,) = load_config(KD).algorithms['distillation'].options['teachers']
    (tmp_path / 'bucket').mkdir()
    shutil.copyfile(stores / 'dense' / 'manifest.json', tmp_path / 'bucket' / 'manifest.json')
    (tmp_path / 'bucket' / 'index.json').write_text('{}')
    assert live_teacher('s3://bucket', tmp_path / 'kept') is None
    note_teacher(tmp_path / 'bucket', teacher)
    found = live_teacher('s3://bucket', tmp_path / 'kept')
    assert (found.model.name, found.checkpoint) == (teacher.model.name, teacher.checkpoint)
    assert live_teacher('s3://none', tmp_path / 'kept') is None


def test_code_of_others_is_not_trusted(tmp_path):
    (tmp_path / 'teacher.yaml').write_text('model: {name: antigravity.Net}\ncheckpoint: a.pt\n')
    with pytest.raises(ConfigError, match='antigravity'):
        live_teacher(tmp_path)
