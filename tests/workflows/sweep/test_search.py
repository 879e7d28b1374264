"""Searching, stopping, going on: real trials, in threads."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json

import pytest
import yaml
from composer import Callback

from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError, LossError
from composer_kd.runs.train import train
from composer_kd.workflows.sweep.results import _best_yaml
from composer_kd.workflows.sweep.search import SweepError
from composer_kd.workflows.sweep.study import Study
from tests.workflows.sweep.tools import ACCURACY, PARAMETERS, SMALL, ThreadWorker, plan, run

pytestmark = pytest.mark.usefixtures('threads')
ONE_EPOCH = [*SMALL[:2], 'max_duration=1ep', 'eval_interval=1ep']


def files(out):
    """The content of every trial that has ended."""
    ended = [file.parent for file in out.glob('trials/*/result.json')]
    return {
        f'{folder.name}/{file.name}': hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in ended
        for file in folder.iterdir()
    }


def stop_after(monkeypatch, trials):
    """Ends the process, as it were, when so many trials were noted: nothing is cleaned up in the database."""
    tell, count = Study.tell, 0

    def counted(self, trial, outcome):
        nonlocal count
        if count == trials:
            raise MemoryError('killed')
        count += 1
        return tell(self, trial, outcome)

    monkeypatch.setattr(Study, 'tell', counted)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A sweep that has ended, and its folder."""
    folder = tmp_path_factory.mktemp('finished')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('composer_kd.workflows.sweep.search.Worker', ThreadWorker)
        return run(plan(folder), folder / 'out', trials=5), folder / 'out'


def test_a_sweep_leaves_its_trials_and_its_best(finished):
    study, out = finished
    records = study.records()
    assert [record.number for record in records] == list(range(5))
    best = study.best()
    complete = [record for record in records if record.state == 'complete']
    assert best.value == max(record.value for record in complete)
    for record in complete:
        folder = out / 'trials' / f'{record.number:03d}'
        assert json.loads((folder / 'metrics.json').read_text())[ACCURACY] == record.value
        saved = load_config(folder / 'config.yaml')
        assert saved.optimizer.options['lr'] == record.settings['optimizer.lr']
        assert saved.train_loader.hold_out == 0.25
        assert 'loss/train/total' in (folder / 'log.txt').read_text()
    summary = (out / 'summary.md').read_text()
    assert 'importances are estimated from 10' in summary
    assert f'Best: trial {best.number}, {100 * best.value:.2f} %' in summary
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith('.')) == [
        *('best.yaml', 'history.png', 'parallel_coordinates.png', 'summary.md', 'sweep.db'),
        *('trials', 'trials.csv', 'trials.json'),
    ]
    rows = list(csv.DictReader((out / 'trials.csv').open()))
    assert [float(row['optimizer.lr']) for row in rows] == [record.settings['optimizer.lr'] for record in records]
    told = json.loads((out / 'trials.json').read_text())
    assert (told['best'], told['samples'], len(told['trials'])) == (best.number, 30, 5)


def test_the_best_trains_on_everything_and_is_evaluated_on_the_runs_own_data(finished, tmp_path):
    study, out = finished
    config = load_config(out / 'best.yaml')
    assert config.train_loader.hold_out is None
    assert config.eval_loader.dataset.options == {'split': 'test'}
    assert config.optimizer.options['lr'] == study.best().settings['optimizer.lr']
    assert str(config.save_folder) == 'runs/{run_name}'
    assert config.run_name == 'digits-student-best'
    assert (out / 'best.yaml').read_text().startswith('# The best of 5 trials')
    found = train(load_config(out / 'best.yaml', ['max_duration=2ba', f'save_folder={tmp_path / "best"}']))
    assert found['time/batch'] == 2
    assert 0 <= found[ACCURACY] <= 1


def test_the_best_of_a_run_with_a_folder_of_its_own_leaves_that_folder_alone(finished, tmp_path):
    plan = finished[0].plan
    base = tmp_path / 'run.yaml'
    base.write_text(plan.sweep.base.read_text().replace('runs/{run_name}', 'runs/first'))
    elsewhere = dataclasses.replace(plan, sweep=dataclasses.replace(plan.sweep, base=base))
    written = yaml.safe_load(_best_yaml(elsewhere, finished[0].best(), 5))
    assert (written['run_name'], written['save_folder']) == ('first-best', 'runs/{run_name}')


def test_the_value_is_that_of_training_by_hand(finished):
    """An independent run: the same settings through ``train``."""
    record = finished[0].records()[0]
    by_hand = [f'{key}={value}' for key, value in record.settings.items()]
    config = load_config('yamls/digits/student.yaml', [*SMALL, *by_hand, 'save_folder=null', 'progress_bar=false'])
    assert train(config)[ACCURACY] == record.value


def test_a_sweep_that_was_killed_goes_on(tmp_path, monkeypatch):
    made = plan(tmp_path)
    straight = run(made, tmp_path / 'straight', trials=3)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(MemoryError):
            run(made, tmp_path / 'out', trials=3)
    (tmp_path / 'out' / 'trials' / '001' / 'result.json').unlink()  # it was killed before that was written
    before = files(tmp_path / 'out')
    assert {name.split('/')[0] for name in before} == {'000'}
    study = run(made, tmp_path / 'out', trials=3)
    after = files(tmp_path / 'out')
    assert before.items() <= after.items()
    one, other = ([(r.number, r.state, r.settings, r.value, r.steps) for r in s.records()] for s in (study, straight))
    assert one == other  # as if it had never been stopped


def test_a_trial_that_had_ended_unnoted_is_not_run_again(tmp_path, monkeypatch):
    made = plan(tmp_path, *ONE_EPOCH)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(MemoryError):
            run(made, tmp_path / 'out', trials=2)
    before = files(tmp_path / 'out')
    assert any(name.startswith('001/') for name in before)
    study = run(made, tmp_path / 'out', trials=2)
    assert files(tmp_path / 'out') == before
    assert [record.state for record in study.records()] == ['complete', 'complete']


def test_the_same_again_does_nothing_but_write_the_results(tmp_path):
    made = plan(tmp_path, *ONE_EPOCH)
    run(made, tmp_path / 'out', trials=2)
    before = files(tmp_path / 'out')
    (tmp_path / 'out' / 'summary.md').unlink()
    run(made, tmp_path / 'out', trials=2)
    assert files(tmp_path / 'out') == before
    assert (tmp_path / 'out' / 'summary.md').is_file()
    assert len(run(made, tmp_path / 'out', trials=3).records()) == 3


def test_a_sweep_goes_on_under_settings_that_change_no_result(tmp_path):
    before = run(plan(tmp_path, *ONE_EPOCH), tmp_path / 'out', trials=1).records()
    same = ['train_loader.num_workers=1', 'eval_loader.pin_memory=false']
    more = ['device_eval_batch_size=50', 'console_log_interval=2ba', 'callbacks={lr_monitor: {}}']
    assert run(plan(tmp_path, *ONE_EPOCH, *same, *more), tmp_path / 'out', trials=1).records() == before
    with pytest.raises(ConfigError, match='device_train_microbatch_size: null → 20'):  # BatchNorm depends on it
        run(plan(tmp_path, *ONE_EPOCH, 'device_train_microbatch_size=20'), tmp_path / 'out', trials=1)


def test_another_search_in_the_same_folder_is_refused(tmp_path):
    run(plan(tmp_path, *ONE_EPOCH), tmp_path / 'out', trials=1)
    longer = [*SMALL[:2], 'max_duration=2ep', 'eval_interval=1ep']
    other = plan(tmp_path, *longer, parameters={**PARAMETERS, 'seed': {'value': 3}})
    with pytest.raises(ConfigError) as caught:
        run(other, tmp_path / 'out', trials=1)
    assert 'holds the trials of another search' in str(caught.value)
    assert '  max_duration: 1ep → 2ep' in str(caught.value)
    assert '  parameters.seed: (nothing) → (value=3)' in str(caught.value)


def test_two_sweeps_cannot_share_a_folder(tmp_path):
    from filelock import FileLock

    made = plan(tmp_path, *ONE_EPOCH)
    (tmp_path / 'out').mkdir()
    with FileLock(tmp_path / 'out' / '.lock'), pytest.raises(ConfigError, match='another sweep works there'):
        run(made, tmp_path / 'out', trials=1)


def test_a_trial_that_fails_is_recorded_and_the_sweep_goes_on(tmp_path):
    parameters = {
        'callbacks': {
            'values': [
                {},
                {'tests.workflows.sweep.test_search.RunsOut': {}},
                {'tests.workflows.sweep.test_search.Diverges': {}},
            ]
        }
    }
    made = plan(tmp_path, *ONE_EPOCH, parameters=parameters, method='grid')
    study = run(made, tmp_path / 'out', trials=9)
    found = {next(iter(record.settings['callbacks']), ''): record for record in study.records()}
    assert len(study.records()) == 3  # the whole grid
    assert found[''].state == 'complete'
    assert found[f'{__name__}.RunsOut'].reason == 'out of memory: CUDA out of memory. Tried to allocate'
    assert found[f'{__name__}.Diverges'].reason == 'LossError: the loss is not finite'
    summary = (tmp_path / 'out' / 'summary.md').read_text()
    assert '1 complete, 2 failed' in summary
    assert 'LossError: the loss is not finite' in summary
    number = found[f'{__name__}.RunsOut'].number
    assert 'Traceback' in (tmp_path / 'out' / 'trials' / f'{number:03d}' / 'log.txt').read_text()


class RunsOut(Callback):
    def batch_end(self, state, logger):
        raise RuntimeError('CUDA out of memory. Tried to allocate')


class Diverges(Callback):
    def batch_end(self, state, logger):
        raise LossError('the loss is not finite')


class Broken(Callback):
    def fit_start(self, state, logger):
        raise OSError('no space left')


def test_a_sweep_whose_trials_all_fail_gives_up(tmp_path):
    own = [*ONE_EPOCH, 'callbacks={tests.workflows.sweep.test_search.Broken: {}}']
    with pytest.raises(SweepError, match='5 trials failed and none succeeded') as caught:
        run(plan(tmp_path, *own), tmp_path / 'out', trials=9)
    assert 'OSError: no space left' in str(caught.value)
    assert (tmp_path / 'out' / 'trials.csv').is_file()


def test_settings_that_come_again_take_the_result_that_is_there(tmp_path):
    made = plan(tmp_path, *ONE_EPOCH, parameters={'optimizer.momentum': {'values': [0.0, 0.9]}})
    records = run(made, tmp_path / 'out', trials=4).records()
    trained = [record for record in records if record.same_as is None]
    assert len(trained) == 2
    for record in records:
        twin = records[record.same_as if record.same_as is not None else record.number]
        assert (record.settings, record.value, record.steps) == (twin.settings, twin.value, twin.steps)
        assert (tmp_path / 'out' / 'trials' / f'{record.number:03d}' / 'metrics.json').is_file()


def test_bad_trials_are_pruned_unless_all_shall_end(tmp_path):
    parameters = {'optimizer.lr': {'values': [0.2, 0.1, 1e-6, 2e-6]}}
    stopping = {'type': 'hyperband', 'min_iter': 1, 'eta': 2}
    made = plan(tmp_path, parameters=parameters, method='grid', early_terminate=stopping)
    pruned = run(made, tmp_path / 'pruned').records()
    assert {record.state for record in pruned} == {'complete', 'pruned'}
    assert max(pruned, key=lambda record: record.value).state == 'complete'
    for record in pruned:
        assert (len(record.steps) < 3) == (record.state == 'pruned')
        assert record.value == record.steps[max(record.steps)]
    assert {record.state for record in run(made, tmp_path / 'all', pruning=False).records()} == {'complete'}


def test_it_ends_when_the_target_is_reached(tmp_path):
    made = plan(tmp_path, *ONE_EPOCH, metric={'name': ACCURACY, 'goal': 'maximize', 'target': 0.01})
    assert len(run(made, tmp_path / 'out', trials=5).records()) == 1


def test_the_least_is_best_where_less_is_better(tmp_path):
    made = plan(tmp_path, *ONE_EPOCH, metric={'name': 'metrics/eval/CrossEntropy'}, method='bayes')
    study = run(made, tmp_path / 'out', trials=3)
    assert study.best().value == min(record.value for record in study.records())


def test_few_labels_are_shared_out_and_judged_by_labels_alone(tmp_path):
    own = ['train_loader.dataset.n_labels=60', 'train_loader.hold_out=0.5', 'max_duration=2ba', 'eval_interval=1ep']
    made = plan(tmp_path, *own)
    assert made.samples == 30
    right = 30 * run(made, tmp_path / 'out', trials=1).best().value
    assert right == pytest.approx(round(right), abs=1e-4)


def test_what_an_earlier_search_left_in_the_folder_is_not_taken_for_a_result(tmp_path):
    out = tmp_path / 'out'
    run(plan(tmp_path, *ONE_EPOCH), out, trials=1)
    (out / 'trials' / '000' / 'result.json').write_text('{"state": "complete", "value": 0.125}')
    (out / 'sweep.db').unlink()
    assert run(plan(tmp_path, *ONE_EPOCH), out, trials=1).best().value != 0.125


def test_a_sweep_that_is_stopped_often_costs_a_trial_nothing(tmp_path, monkeypatch):
    made = plan(tmp_path, *ONE_EPOCH)
    for _ in range(2):
        with monkeypatch.context() as patch:
            stop_after(patch, 0)
            with pytest.raises(MemoryError):
                run(made, tmp_path / 'out', trials=1)
        (tmp_path / 'out' / 'trials' / '000' / 'result.json').unlink()
    deaths = [-9]

    class Dies(ThreadWorker):
        def receive(self):
            kind, content = super().receive()
            return ('lost', deaths.pop()) if kind == 'end' and deaths else (kind, content)

    monkeypatch.setattr('composer_kd.workflows.sweep.search.Worker', Dies)
    assert run(made, tmp_path / 'out', trials=1).records()[0].state == 'complete'
    assert not deaths


def test_a_sweep_that_has_results_is_not_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr('composer_kd.workflows.sweep.search.MOST_FAILURES', 1)
    run(plan(tmp_path, *ONE_EPOCH), tmp_path / 'out', trials=1)
    broken = plan(tmp_path, *ONE_EPOCH, 'callbacks={tests.workflows.sweep.test_search.Broken: {}}')
    records = run(broken, tmp_path / 'out', trials=3).records()
    assert [record.state for record in records] == ['complete', 'failed', 'failed']


def test_a_trial_that_is_run_again_is_not_judged_by_what_it_told_before(tmp_path):
    study = Study(plan(tmp_path), tmp_path)
    for value in (0.9,) * 5 + (0.1,):
        trial = study.ask()
        study.settings(trial)
        for step in range(1, 5):
            trial.report(value, step)
        if value == 0.9:
            study.tell(trial, {'state': 'complete', 'value': value})
    (again,) = Study(study.plan, tmp_path).interrupted()  # the sweep was killed before the answer to step 4
    answers = [study.report(again, step, 0.1) for step in range(1, 5)]
    assert answers == [False, False, False, True]


def test_trials_of_a_run_that_keeps_its_best_checkpoint(tmp_path):
    best = f'callbacks={{best_checkpoint: {{metric: {ACCURACY}, folder: {tmp_path / "best"}}}}}'
    out = tmp_path / 'out'
    found = run(plan(tmp_path, *ONE_EPOCH, best), out, trials=1)
    assert found.best() is not None
    assert not (tmp_path / 'best').exists()  # of all trials, one over another
    assert 'best_checkpoint' in yaml.safe_load((out / 'best.yaml').read_text())['callbacks']
