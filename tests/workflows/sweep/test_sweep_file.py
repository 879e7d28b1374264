from __future__ import annotations

import pytest
import yaml

from composer_kd.errors import ConfigError
from composer_kd.workflows.sweep.sweep_file import read_sweep
from tests.workflows.sweep.tools import ACCURACY, BASE, SMALL, write, written


def faults(tmp_path, **keys):
    with pytest.raises(ConfigError) as caught:
        read_sweep(write(tmp_path, **keys))
    return str(caught.value)


def test_a_sweep_is_read(tmp_path):
    sweep = read_sweep(write(tmp_path, run_cap=7))
    assert (sweep.name, sweep.method, sweep.metric, sweep.goal, sweep.run_cap) == (
        'sweep',
        'random',
        ACCURACY,
        'maximize',
        7,
    )
    assert (sweep.base.as_posix(), list(sweep.fixed), sweep.sign) == (BASE, SMALL, 1)
    assert [parameter.key for parameter in sweep.parameters] == ['optimizer.lr', 'optimizer.momentum']


def test_all_faults_are_said_at_once(tmp_path):
    said = faults(
        tmp_path,
        method='bayse',
        metrik={},
        metric={'name': ACCURACY, 'goal': 'max', 'targt': 1},
        early_terminate={'type': 'hyperbnd'},
        run_cap=0,
        parameters={'optimizer.lr': {'min': 1}, 'optimizer.x': {'distribution': 'foo'}},
        command=['composer-kd', 'train', BASE, 'max_duration'],
    )
    assert '10 faults; nothing was started' in said
    for part in (
        "metrik: unknown key of a sweep; did you mean 'metric'?",
        "method: expected one of bayes, random, grid, got 'bayse'; did you mean 'bayes'?",
        "metric.goal: expected minimize or maximize, got 'max'",
        "metric.targt: unknown key; did you mean 'target'?",
        "early_terminate.type: expected hyperband or median, got 'hyperbnd'; did you mean 'hyperband'?",
        'run_cap: expected a whole number of 1 or more, got 0',
        'parameters.optimizer.lr.max: required for uniform, and missing',
        "parameters.optimizer.x.distribution: unknown 'foo'",
        'command: needs "${args_no_hyphens}"',
        "command: 'max_duration' is no override key=value",
    ):
        assert part in said


@pytest.mark.parametrize(
    ('stopping', 'message'),
    [
        ({'type': 'hyperband'}, 'hyperband needs min_iter, or max_iter and s'),
        ({'type': 'hyperband', 'min_iter': 0}, 'early_terminate.min_iter: expected a whole number of 1 or more, got 0'),
        ({'type': 'hyperband', 'min_iter': 1, 'eta': 1}, 'early_terminate.eta: expected a whole number of 2 or more'),
        ({'type': 'hyperband', 'min_itr': 1}, "min_itr: unknown key of hyperband; did you mean 'min_iter'"),
        ('median', "got 'median'"),
    ],
)
def test_stopping_that_is_not_understood_is_refused(tmp_path, stopping, message):
    assert message in faults(tmp_path, early_terminate=stopping)


@pytest.mark.parametrize(
    'command',
    [
        ['composer-kd', 'train'],
        'composer-kd train yamls/digits/kd.yaml ${args_no_hyphens}',
        None,
        ['python', 'train.py', '${args}'],
    ],
)
def test_a_command_that_names_no_run_is_refused(tmp_path, command):
    assert 'command: expected the run that is searched' in faults(tmp_path, command=command)


def test_a_launcher_is_left_to_wandb(tmp_path):
    command = ['composer', '-n', '2', '-m', 'composer_kd', 'train', BASE, '${args_no_hyphens}']
    assert "one process here, so that 'composer -n 2' before train cannot be" in faults(tmp_path, command=command)
    assert read_sweep(write(tmp_path, command=command), offline=False).base.as_posix() == BASE
    for launcher in (
        ['python', '-m', 'composer_kd'],
        ['${env}', '${interpreter}', '-m', 'composer_kd'],
        ['bin/composer-kd'],
    ):
        read_sweep(write(tmp_path, command=[*launcher, 'train', BASE, '${args_no_hyphens}']))


def test_a_grid_needs_steps(tmp_path):
    assert 'parameters.optimizer.lr: a grid needs values, or steps' in faults(tmp_path, method='grid')


@pytest.mark.parametrize('content', ['', '[]', 'a: [', 'text'])
def test_what_is_no_sweep_is_refused(tmp_path, content):
    (tmp_path / 'a.yaml').write_text(content)
    with pytest.raises(ConfigError, match=r'expected a sweep with the keys method|is not valid YAML'):
        read_sweep(tmp_path / 'a.yaml')


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    file = write(tmp_path)
    file.write_text(file.read_text() + '  optimizer.lr: {value: 0.1}\n')
    with pytest.raises(ConfigError, match=r'duplicate key optimizer\.lr'):
        read_sweep(file)


@pytest.mark.parametrize('name', ['a/b', ['a'], '{x}', ' '])
def test_a_name_that_makes_no_folder_or_run_is_refused(tmp_path, name):
    (tmp_path / 'a.yaml').write_text(yaml.safe_dump({**written(), 'name': name}))
    with pytest.raises(ConfigError, match='name: expected a name without slashes and braces'):
        read_sweep(tmp_path / 'a.yaml')


def test_a_missing_file_has_a_neighbour(tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean 'yamls/sweeps/digits.yaml'"):
        read_sweep('yamls/sweeps/digts.yaml')


def test_the_file_is_written_as_it_is_read(tmp_path):
    assert read_sweep(write(tmp_path)).written == yaml.safe_load(yaml.safe_dump(written()))
