"""The study of schemes: every run of it is a valid YAML, and its tables say what was found."""

import json

import pytest

from benchmarks import schemes, schemes_cost
from benchmarks.jobs import Runner, write_file
from benchmarks.schemes_jobs import CHAINS, STORED, YAML, Run, Stored
from composer_kd.config.load import load_config
from composer_kd.config.stages import load_chain


def job(method, setting, work, seed=1):
    kind = STORED.get(method)
    source = Stored('resnet56', 'all', 10, 'dense', work)
    store = None if kind is None else Stored(kind.teacher, 'all', 10, kind.form, work, None, source)
    return Run(method, setting, seed, 3e-3, 'all', 100, work, store)


@pytest.mark.parametrize('setting', schemes.SETTINGS)
@pytest.mark.parametrize('method', schemes.RATE_OF)
def test_each_run_is_valid(method, setting, tmp_path):
    run = job(method, setting, str(tmp_path))
    if method in CHAINS:
        chain = load_chain(YAML.with_name(f'{method}.yaml'), list(run.overrides))
        assert {str(stage.config.max_duration) for stage in chain.stages} == {'100ba'}
        assert CHAINS[method] in [stage.name for stage in chain.stages]
        return
    config = load_config(YAML, list(run.overrides))
    assert config.optimizer.options['lr'] == 3e-3
    assert config.train_loader.dataset.options.get('n_labels') == (2000 if setting == 'few' else None)


def test_results_are_known_by_what_is_run_wherever_it_is(tmp_path):
    one, other = (job('dense', 'few', str(tmp_path / name)) for name in ('a', 'b'))
    assert one.path.name == other.path.name
    names = {job(method, setting, str(tmp_path)).path for method in schemes.RATE_OF for setting in schemes.SETTINGS}
    assert len(names) == 2 * len(schemes.RATE_OF)
    assert job('alone', 'few', str(tmp_path), seed=2).path not in names


def test_tables_pair_each_seed_with_the_student_alone(tmp_path):
    options = [
        '--work',
        str(tmp_path / 'work'),
        '--out',
        str(tmp_path),
        '--methods',
        'alone',
        'ema',
        '--seeds',
        '1',
        '2',
    ]
    options = schemes.parse([*options, '--settings', 'few', '--epochs', '1'])
    options.work.mkdir()
    accuracies = {('alone', 1): 0.5, ('alone', 2): 0.52, ('ema', 1): 0.56, ('ema', 2): 0.6}
    study = schemes.Study(options, Runner(0, dry=True))
    for rate in (1e-3, 3e-3, 1e-2):
        tuned = study._job(schemes.Cell('few', 'alone'), schemes.TUNING_SEED, rate, tuning=True)
        write(tuned, 0.4 + (rate == 3e-3) / 10)
    for (method, seed), accuracy in accuracies.items():
        write(study._job(schemes.Cell('few', method), seed, 3e-3), accuracy)
    study.run()
    table = (tmp_path / 'schemes.md').read_text()
    assert '| alone | 51.0 ± 1.0 |  | 50.0, 52.0 |' in table
    assert "| self: the student's average | 58.0 ± 2.0 | +7.0 ± 1.0 | 56.0, 60.0 |" in table
    assert str(tmp_path) not in table
    found = json.loads((tmp_path / 'schemes.json').read_text())
    assert {(run['method'], run['seed']): run['accuracy'] for run in found['runs']} == accuracies


def write(task, accuracy):
    found = {'name': task.name, 'accuracy': accuracy, 'cpu': 3.0, 'wall': 4.0, 'batches': task.batches}
    write_file(task.path, json.dumps(found))


@pytest.mark.slow
def test_costs_are_measured_and_written(tmp_path):
    report = schemes_cost.main(['--workloads', 'cnn', '--rounds', '1', '--steps', '1', '--out', str(tmp_path)])
    quantities = {one['name'] for one in report['measured'][0]['quantities']}
    assert {'stored dense / student', 'two peers / (2 student + losses)'} <= quantities
    assert 'python benchmarks/schemes_cost.py --workloads cnn' in (tmp_path / 'schemes_cost.md').read_text()
