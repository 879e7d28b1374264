"""Which keys change a run's result."""

from __future__ import annotations

import dataclasses

import pytest

from composer_kd.config.effects import QUIET, changes_result, differing, effect_of
from composer_kd.config.load import as_mapping, load_config
from composer_kd.config.markers import Effect
from composer_kd.presentation.settings import leaves

KD = 'yamls/digits/kd.yaml'
LOADING = ('num_workers', 'pin_memory', 'persistent_workers', 'prefetch_factor')


def keys():
    config = load_config(KD, ['loggers={file: {}}', 'callbacks={lr_monitor: {}}', 'profiler={}'])
    return list(leaves(as_mapping(config)))


def test_what_changes_no_result_is_output_loading_and_what_counts_elsewhere():
    free = [key for key in keys() if not changes_result(key)]
    top = {key.partition('.')[0] for key in free} - {'train_loader', 'eval_loader'}
    assert top == {
        *('run_name', 'loggers', 'variables', 'profiler', 'autoresume', 'progress_bar', 'log_to_console'),
        *('console_log_interval', 'save_folder', 'save_interval', 'save_overwrite', 'save_weights_only'),
        *('save_num_checkpoints_to_keep', 'device_eval_batch_size', 'allow_imports'),
        *('save_filename', 'save_latest_filename', 'python_log_level', 'compile_config'),
    }
    loaders = {key for key in free if key.startswith(('train_loader', 'eval_loader'))}
    assert loaders == {f'{loader}.{name}' for loader in ('train_loader', 'eval_loader') for name in LOADING}


@pytest.mark.parametrize(
    ('key', 'effect'),
    [
        ('seed', Effect.SEED),
        ('device_train_microbatch_size', Effect.MICROBATCH),
        ('max_duration', Effect.LENGTH),
        ('load_path', Effect.START),
        ('eval_interval', Effect.EVALUATION),
        ('callbacks.lr_monitor.log_optimizer_state', Effect.CALLBACKS),
        ('optimizer.lr', None),
        ('train_loader.dataset.seed', None),
        ('algorithms.distillation.teachers.0.model.num_workers', None),
        ('no_such_key', None),
        ('max_duration.no_such_key', Effect.LENGTH),
        ('', None),
    ],
)
def test_the_mark_of_a_key_holds_for_all_below_it(key, effect):
    assert effect_of(key) is effect
    assert changes_result(key, *({*Effect} - {effect}))
    assert effect is None or not changes_result(key, effect)


def test_settings_of_two_versions_differ_in_what_both_know():
    now = {'seed': 1, 'train_loader.dataset.name': 'digits', 'train_loader.hold_out_seed': 0, 'optimizer.name': 'SGD'}
    before = {'seed': 1, 'train_loader.dataset.name': 'digits', 'optimizer.name': 'SGD', 'train_loader.gone': 3}
    assert differing({**before, 'gone': 4, 'section.gone': 5}, now) == []
    assert differing(before, {**now, 'optimizer.lr': 0.1, 'seed': 2}) == ['seed', 'optimizer.lr']


@pytest.mark.parametrize(
    ('key', 'default', 'other'),
    [('train_loader.hold_out', None, 0.1), ('train_subset_num_batches', -1, 4), ('fsdp_config', None, {'a': 1})],
)
def test_a_key_that_an_older_version_lacks_counts_unless_it_has_its_default(key, default, other):
    before = {'seed': 1, 'train_loader.dataset.name': 'digits'}
    assert differing(before, {**before, key: default}) == []
    assert differing(before, {**before, key: other}) == [key]
    assert differing({**before, key: other}, before) == [key]


def test_an_evaluation_that_one_run_lacks_is_a_difference():
    before = {'eval_loader': None}
    assert differing(before, {'eval_loader.dataset.name': 'digits'}) == ['eval_loader.dataset.name']


def test_a_quiet_run_has_settings_of_its_own_output_alone():
    assert {effect_of(key) for key in QUIET} == {Effect.OUTPUT}
    config = dataclasses.replace(load_config(KD), **QUIET)
    assert config.folder is None
    assert list(config.conflicts()) == []
