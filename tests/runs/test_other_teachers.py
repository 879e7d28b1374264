"""A YAML run that goes on from a checkpoint with another teacher: an error, unless load_ignore_keys says so."""

import shutil

import pytest

from composer_kd.config.load import load_config
from composer_kd.errors import CheckpointError, ConfigError
from composer_kd.runs.train import train

QUIET = ['save_interval=1ba', 'progress_bar=false', 'eval_loader=null', 'max_duration=1ba']


def run(folder, *overrides, yaml='kd'):
    return train(load_config(f'yamls/digits/{yaml}.yaml', [f'save_folder={folder}', *QUIET, *overrides]), quiet=True)


@pytest.fixture(scope='module')
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp('teachers')
    for seed in (1, 2):
        run(folder / str(seed), f'seed={seed}', yaml='teacher')
    return [folder / str(seed) / 'latest-rank0.pt' for seed in (1, 2)]


def test_load_path_with_another_teacher(teachers, tmp_path):
    one, other = (f'variables.teacher={file}' for file in teachers)
    run(tmp_path / 'a', one)
    on = [other, f'load_path={tmp_path}/a/latest-rank0.pt', 'max_duration=2ba']
    with pytest.raises(CheckpointError, match=r'other teachers .*\n  teacher 0 .*: weights saved \w{8}, now \w{8}'):
        run(tmp_path / 'b', *on)
    assert run(tmp_path / 'b', *on, 'load_ignore_keys=[state/algorithms/*]')['time/batch'] == 2


def test_autoresume_notices_that_the_file_of_a_teacher_was_replaced(teachers, tmp_path):
    teacher = tmp_path / 'teacher.pt'
    shutil.copy(teachers[0], teacher)
    run(tmp_path / 'a', f'variables.teacher={teacher}')
    shutil.copy(teachers[1], teacher)
    with pytest.raises(CheckpointError, match='other teachers'):
        run(tmp_path / 'a', f'variables.teacher={teacher}', 'max_duration=2ba', 'autoresume=true')


def test_keys_without_a_checkpoint_are_refused(tmp_path):
    with pytest.raises(ConfigError, match='load_ignore_keys: needs load_path'):
        load_config('yamls/digits/student.yaml', ['load_ignore_keys=[state/algorithms/*]'])
