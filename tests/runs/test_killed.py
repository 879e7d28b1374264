"""A run that is killed at any moment goes on with autoresume, and ends as one that was never stopped."""

import random
import time

import pytest

from composer_kd.config.load import load_config
from composer_kd.runs.train import train
from tests.runs.killing import MOMENTS, finish, record, same, start

QUICK = ['progress_bar=false', 'train_loader.dataset.subset=256', 'eval_loader.dataset.subset=64']
SHORT = [*QUICK, 'max_duration=3ep', 'eval_interval=1ep', 'autoresume=true', 'save_num_checkpoints_to_keep=2']
PROJECTED = (
    'algorithms.distillation.kd_loss_fn=[{name: KLDivergence}, '
    '{loss: {name: hint}, on: [features.2, features.5], project: auto}]'
)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp('teacher')
    train(load_config('yamls/digits/teacher.yaml', [*QUICK, 'max_duration=1ep', f'save_folder={folder}']), quiet=True)
    return f'variables.teacher={folder / "latest-rank0.pt"}'


def settings(teacher):
    """YAMLs with the overrides of a run: 12 batches in 3 epochs."""
    return {
        'alone': ('yamls/digits/student.yaml', [*SHORT, 'save_interval=3ba']),
        'taught': ('yamls/digits/kd.yaml', [*SHORT, teacher, 'save_interval=1ep']),
        'projected': ('yamls/digits/kd.yaml', [*SHORT, teacher, PROJECTED, 'save_interval=1ba']),
    }


@pytest.fixture(scope='module')
def straight(teacher, tmp_path_factory):
    """What each run leaves if nothing stops it, and how long it takes."""
    found = {}
    for name, (yaml, overrides) in settings(teacher).items():
        folder = tmp_path_factory.mktemp(name)
        finish(yaml, [*overrides, f'save_folder={folder}'])
        found[name] = record(folder)
    return found


@pytest.mark.parametrize('moment', MOMENTS)
@pytest.mark.parametrize(('name', 'count'), [('alone', 4), ('projected', 1)])
def test_killed_at_a_moment_of_choice(teacher, straight, tmp_path, name, count, moment):
    yaml, overrides = settings(teacher)[name]
    overrides = [*overrides, f'save_folder={tmp_path}']
    process = start(yaml, overrides, moment, count)
    process.join(120)
    assert process.exitcode == -9
    finish(yaml, overrides)
    assert same(record(tmp_path), straight[name])


def killed_at_random(yaml, overrides, folder, seconds):
    overrides = [*overrides, f'save_folder={folder}']
    process = start(yaml, overrides)
    while not (folder / 'config.yaml').exists() and process.is_alive():
        time.sleep(0.002)
    process.join(seconds)
    process.kill()
    process.join()
    finish(yaml, overrides)


@pytest.mark.parametrize('seed', range(3))
def test_killed_at_a_random_moment(teacher, straight, tmp_path, seed):
    name = list(straight)[seed]
    killed_at_random(*settings(teacher)[name], tmp_path, random.Random(seed).uniform(0, 0.6))
    assert same(record(tmp_path), straight[name])


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(100, 130))
def test_killed_at_thirty_random_moments(teacher, straight, tmp_path, seed):
    draw = random.Random(seed)
    name = draw.choice(list(straight))
    killed_at_random(*settings(teacher)[name], tmp_path, draw.uniform(0, 1.2))
    assert same(record(tmp_path), straight[name])
