"""The sweep against the run that it searches, before anything starts."""

from __future__ import annotations

import pathlib

import pytest
import yaml

from composer_kd.errors import ConfigError
from tests.workflows.sweep.tools import ACCURACY, SMALL, plan

QUICK = SMALL[:1] + SMALL[2:]  # says nothing of what is held out


def refused(tmp_path, *overrides, use_eval_loader=False, **keys):
    from composer_kd.workflows.sweep.plan import make_plan
    from composer_kd.workflows.sweep.sweep_file import read_sweep
    from tests.workflows.sweep.tools import write

    with pytest.raises(ConfigError) as caught:
        make_plan(read_sweep(write(tmp_path, *overrides, **keys)), use_eval_loader)
    return str(caught.value)


def test_unknown_keys_and_bad_values_are_all_said_with_the_nearest(tmp_path):
    said = refused(
        tmp_path,
        parameters={
            'optimizer.lrr': {'values': [0.1]},
            'optimizer.momentum': {'values': [0.9, 'much']},
            'optimizer.name': {'values': ['DecoupledSGDW', 'SDG']},
            'optimzer.lr': {'min': 0.1, 'max': 0.2},
            'global_train_batch_size': {'min': 0, 'max': 64},
            'model.name': {'values': ['ShallowCNN', 'ShalowCNN']},
        },
    )
    assert 'nothing was started' in said
    for part in (
        "optimizer.lrr: unknown option of DecoupledSGDW; did you mean 'lr'?",
        "optimizer.momentum: expected a number, got 'much' (with optimizer.momentum=much)",
        "unknown optimizer 'SDG'; did you mean 'SGD'? (with optimizer.name=SDG)",
        "optimzer: unknown key; did you mean 'optimizer'",
        'global_train_batch_size: expected an integer that is positive, got 0',
        "unknown model 'ShalowCNN'; did you mean 'ShallowCNN'? (with model.name=ShalowCNN)",
    ):
        assert part in said


def test_both_ends_of_a_range_are_tried(tmp_path):
    said = refused(tmp_path, parameters={'seed': {'min': 5, 'max': 2**33}})
    assert 'from 0 to 2**32 - 1' in said
    assert f'(with seed={2**33})' in said


def test_values_that_exclude_one_another_are_named_together(tmp_path):
    parameters = {
        'optimizer.lr': {'values': [0.1, 0.2]},
        'optimizer.name': {'values': ['DecoupledSGDW', 'DecoupledAdamW']},
        'global_train_batch_size': {'values': [8, 32]},
        'device_train_microbatch_size': {'values': [4, 16]},
    }
    said = refused(tmp_path, parameters=parameters)
    assert 'momentum: unknown option of DecoupledAdamW' in said
    assert '(with optimizer.name=DecoupledAdamW)' in said
    assert 'expected at most 8, the batch of a process, got 16 (with device_train_microbatch_size=16)' in said
    assert '2 faults' in said


def test_a_pair_that_excludes_is_found_where_each_is_right_alone(tmp_path):
    parameters = {
        'global_train_batch_size': {'values': [32, 8]},
        'optimizer.lr': {'values': [0.1, 0.2]},
        'device_train_microbatch_size': {'values': [4, 16]},
    }
    said = refused(tmp_path, parameters=parameters)
    assert '(with global_train_batch_size=8, device_train_microbatch_size=16)' in said
    assert '1 fault;' in said


@pytest.mark.parametrize(
    'key', ['run_name', 'save_folder', 'eval_loader.dataset.split', 'train_loader.hold_out', 'train_loader']
)
def test_what_the_trials_are_judged_on_is_not_searched(tmp_path, key):
    # A whole train_loader would replace the hold_out in it, and the test set would decide.
    said = refused(tmp_path, parameters={key: {'values': [{'dataset': {'name': 'digits'}}]}})
    assert f'parameters.{key}: is not searched' in said


def test_a_missing_teacher_is_named_with_its_setting(tmp_path):
    there = tmp_path / 'teacher.pt'
    there.write_bytes(b'')
    values = {'values': [str(there), str(tmp_path / 'gone.pt')]}
    said = refused(tmp_path, *SMALL, base='yamls/digits/kd.yaml', parameters={'variables.teacher': values})
    assert "teachers.0.checkpoint: there is no '" in said
    assert f"gone.pt'; train that teacher first (with variables.teacher={tmp_path / 'gone.pt'})" in said
    assert '1 fault;' in said


def test_a_student_that_does_not_fit_the_data_is_found(tmp_path):
    said = refused(tmp_path, parameters={'model.in_channels': {'values': [1, 3]}})
    assert 'model: fails on the first sample of train_loader.dataset' in said


def test_a_metric_that_is_not_measured_is_refused(tmp_path):
    said = refused(tmp_path, metric={'name': 'metrics/eval/MulticlasAccuracy', 'goal': 'maximize'})
    assert (
        f"metric.name: 'metrics/eval/MulticlasAccuracy' is not measured in an evaluation; did you mean '{ACCURACY}'"
        in said
    )


def test_without_a_word_a_tenth_is_held_out_of_training(tmp_path):
    made = plan(tmp_path, *QUICK)
    assert 'train_loader.hold_out=0.1' in made.overrides
    assert made.samples == 12
    assert made.judged_on.startswith('10 % of the training samples')
    assert made.run.save_folder is None


def test_what_the_file_says_of_the_samples_counts(tmp_path):
    assert plan(tmp_path).samples == 30


@pytest.mark.parametrize(('key', 'values'), [('subset', [120, 160]), ('n_labels', [60, 90]), ('seed', [0, 1])])
def test_what_chooses_the_samples_that_decide_is_not_searched(tmp_path, key, values):
    fixed = [*SMALL, 'train_loader.dataset.n_labels=60']
    said = refused(tmp_path, *fixed, parameters={f'train_loader.dataset.{key}': {'values': values}})
    assert f'with other values of train_loader.dataset.{key} other samples decide' in said


def test_whether_to_augment_is_searched(tmp_path):
    assert plan(tmp_path, parameters={'train_loader.dataset.augment': {'values': [False, True]}}).samples == 30


def test_training_data_are_known_though_they_are_augmented(tmp_path):
    said = refused(tmp_path, *QUICK, 'train_loader.dataset.augment=true', 'eval_loader.dataset.split=train')
    assert 'which they train on' in said


def test_another_variable_of_the_run_does_not_make_its_test_set_decide(tmp_path):
    base = tmp_path / 'run.yaml'
    text = pathlib.Path('yamls/digits/student.yaml').read_text()
    base.write_text(text.replace('split: test', 'split: ${variables.judge}').replace('8\n', '8\n  judge: test\n', 1))
    made = plan(tmp_path, *QUICK, 'variables.judge=train', base=base)
    assert made.run.train_loader.hold_out == 0.1


@pytest.mark.parametrize(
    ('data', 'is_test'),
    [
        ('{name: my.data, split: test}', True),
        ('{name: my.mnist_test}', True),
        ('{name: torchvision.datasets.MNIST, root: data, train: false}', True),
        ('{name: my.data, root: data/latest, split: validation}', False),
    ],
)
def test_a_test_set_is_known_by_its_names(data, is_test):
    from composer_kd.config.markers import Component
    from composer_kd.config.schema import LoaderConfig
    from composer_kd.workflows.sweep.plan import _is_test

    options = yaml.safe_load(data)
    assert _is_test(LoaderConfig(Component('dataset', options.pop('name'), options))) == is_test


def test_trials_are_not_profiled(tmp_path):
    assert plan(tmp_path, *SMALL, 'profiler={}').run.profiler is None


@pytest.mark.parametrize('split', ['test', 'train'])
def test_a_test_set_and_the_training_set_are_refused_unless_meant(tmp_path, split):
    # The run's own evaluation data are other ones, so that these were chosen on purpose.
    other = [*QUICK, f'eval_loader.dataset.split={split}', 'eval_loader.dataset.subset=120']
    said = refused(tmp_path, *other)
    assert ('a test set: what is chosen by it' if split == 'test' else 'which they train on') in said
    assert '--use-eval-loader' in said


def test_the_test_set_is_taken_if_it_is_meant(tmp_path):
    from composer_kd.workflows.sweep.plan import make_plan
    from composer_kd.workflows.sweep.sweep_file import read_sweep
    from tests.workflows.sweep.tools import write

    made = make_plan(read_sweep(write(tmp_path)), use_eval_loader=True)
    assert made.samples == 500
    assert made.run.train_loader.hold_out is None
    assert "split='test'" in made.judged_on


def test_a_split_of_ones_own_is_judged_by(tmp_path):
    own = [*QUICK, 'eval_loader.dataset={name: tests.workflows.sweep.test_plan.validation}']
    made = plan(tmp_path, *own)
    assert made.samples == 40
    assert made.run.train_loader.hold_out is None


def validation():
    from composer_kd.data import digits

    return digits('test', subset=40)


def test_a_store_that_is_gone_is_named_with_its_key(tmp_path):
    store = f'variables.store={tmp_path}/gone'
    said = refused(
        tmp_path, *SMALL, store, base='yamls/digits/kd_cached.yaml', parameters={'optimizer.lr': {'values': [0.1, 0.2]}}
    )
    assert 'algorithms.distillation.teachers.0: ' in said
    assert 'gone holds no store' in said


@pytest.mark.parametrize('name', ['digits', 'cifar10'])
def test_the_sweeps_that_are_shipped_fit_their_runs(tmp_path, name, monkeypatch):
    """All but the teachers' weights and CIFAR-10 itself, which are not in the repository."""
    from composer_kd.workflows.sweep import plan as module
    from composer_kd.workflows.sweep.sweep_file import read_sweep

    monkeypatch.setattr(module, '_missing_checkpoints', lambda config: [])
    monkeypatch.setattr(module, '_dry_run', lambda sweep, configs: len(configs))
    made = module.make_plan(read_sweep(f'yamls/sweeps/{name}.yaml'))
    assert made.run.train_loader.hold_out in (0.1, 0.15)
    assert made.run.loggers == {}
    assert made.samples > 10


def test_a_metric_of_a_peer_may_decide(tmp_path):
    wrong = {'name': 'metrics/eval/twn/MulticlassAccuracy', 'goal': 'maximize'}
    said = refused(tmp_path, *QUICK, base='yamls/digits/mutual.yaml', metric=wrong)
    assert "did you mean 'metrics/eval/twin/MulticlassAccuracy'" in said
