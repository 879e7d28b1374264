"""A chain that is killed at any moment goes on when it is started again, and ends as one that was never stopped."""

import random
import time

import pytest

from tests.runs.killing import BETWEEN_STAGES, finish, record, same, start

YAML = 'yamls/digits/born_again.yaml'
SHORT = [
    *('progress_bar=false', 'train_loader.dataset.subset=256', 'eval_loader.dataset.subset=64', 'eval_interval=1ep'),
    *('max_duration=2ep', 'save_interval=3ba', 'stages.student.generations=2'),
]
STAGES = ('teacher', 'student-1', 'student-2')


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    """What each stage leaves if nothing stops the chain."""
    folder = tmp_path_factory.mktemp('straight')
    finish(YAML, [*SHORT, f'save_folder={folder}'])
    return {name: record(folder / name) for name in STAGES}


def check(folder, straight):
    for name in STAGES:
        assert same(record(folder / name), straight[name]), name


# A stage of 8 batches saves three checkpoints: the fourth is the first of student-1.
@pytest.mark.parametrize(
    ('moment', 'count'),
    [
        ('in a checkpoint', 4),
        ('before a stage', 2),
        pytest.param('before the metrics', 1, marks=pytest.mark.slow),
        *(pytest.param(moment, 2, marks=pytest.mark.slow) for moment in [*BETWEEN_STAGES][1:]),
    ],
)
def test_killed_at_a_moment_of_choice(straight, tmp_path, moment, count):
    overrides = [*SHORT, f'save_folder={tmp_path}']
    process = start(YAML, overrides, moment, count)
    process.join(120)
    assert process.exitcode == -9
    finish(YAML, overrides)
    check(tmp_path, straight)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(20))
def test_killed_at_random_moments(straight, tmp_path, seed):
    draw = random.Random(seed)
    overrides = [*SHORT, f'save_folder={tmp_path}']
    for _ in range(3):
        process = start(YAML, overrides)
        process.join(draw.uniform(0.5, 6.0))
        process.kill()
        process.join()
        time.sleep(draw.uniform(0, 0.2))
    finish(YAML, overrides)
    check(tmp_path, straight)
