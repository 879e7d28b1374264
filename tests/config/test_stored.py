"""Stored teachers in a run's YAML, before anything is read from their folders."""

from __future__ import annotations

import pytest

from composer_kd.config.load import as_mapping, load_config
from composer_kd.config.stored import stored_teachers
from composer_kd.errors import ConfigError

CACHED = 'yamls/digits/kd_cached.yaml'
KD = 'yamls/digits/kd.yaml'
TEACHERS = 'algorithms.distillation.teachers'


def stored(overrides=(), file=CACHED):
    return [(one.key, one.folder, one.name) for one in stored_teachers(load_config(file, overrides).algorithms)]


def refusal(*overrides):
    with pytest.raises(ConfigError) as said:
        load_config(CACHED, overrides)
    return str(said.value)


def test_the_short_form_is_read_and_written_back():
    config = load_config(CACHED)
    assert stored() == [(f'{TEACHERS}.0', 'runs/digits-kd-cache', None)]
    written = as_mapping(config)['algorithms']['distillation']['teachers']
    assert written == [{'cache': 'runs/digits-kd-cache', 'name': None, 'local': None}]


@pytest.mark.parametrize(
    'written',
    ['{cache: runs/a, name: big}', '[{cache: runs/a, name: big}]', '[{name: CachedTeacher, folder: runs/a}]'],
)
def test_the_loader_tells_the_numbers_of_the_samples(written):
    config = load_config(CACHED, [f'{TEACHERS}={written}'])
    (one,) = stored_teachers(config.algorithms)
    assert (one.folder, one.key) == ('runs/a', f'{TEACHERS}.0')
    assert config.train_loader.with_index
    assert not load_config(KD).train_loader.with_index


@pytest.mark.parametrize('key', ['{cache: ', '{name: CachedTeacher, folder: '])
def test_an_address_has_a_folder_for_what_is_fetched(key):
    config = load_config(CACHED, [f"{TEACHERS}=[{key}'s3://bucket/a', local: runs/kept}}]"])
    (one,) = stored_teachers(config.algorithms)
    assert (one.folder, one.local) == ('s3://bucket/a', 'runs/kept')


def test_it_stands_anywhere_in_the_list():
    model = '{model: {name: DeepCNN, in_channels: 1, image_size: 8, num_classes: 10}, checkpoint: a.pt, name: live}'
    found = stored([f'{TEACHERS}=[{model}, {{cache: runs/a}}]', 'algorithms.distillation.n_teachers_to_sample=1'])
    assert found == [(f'{TEACHERS}.1', 'runs/a', None)]


def test_a_match_may_name_a_teacher_whose_name_only_the_store_knows():
    match = 'algorithms.distillation.kd_loss_fn={loss: {name: KLDivergence}, teacher: big}'
    assert stored([match, f'{TEACHERS}=[{{cache: runs/a}}]'])
    assert "'big'" in refusal(match, f'{TEACHERS}=[{{cache: runs/a, name: small}}]')


@pytest.mark.parametrize(
    ('written', 'said'),
    [
        ('{cahce: runs/a}', "cahce: unknown key; did you mean 'cache'?"),
        ('{cache: 3}', 'cache: expected a string, got 3'),
        ('{cache: runs/a, chekpoint: b}', 'chekpoint: unknown key'),
        ('{cache: runs/a, model: {name: DeepCNN}}', 'cache: unknown key'),
    ],
)
def test_faults_are_said(written, said):
    assert said in refusal(f'{TEACHERS}=[{written}]')


def test_it_says_nothing_of_an_evaluation():
    assert 'run_teacher_on_eval: a stored teacher knows' in refusal('algorithms.distillation.run_teacher_on_eval=true')
