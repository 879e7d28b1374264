"""Thousands of wrong YAML files and overrides: each ends in the error of this package, soon, or is right."""

from __future__ import annotations

import pathlib
import random
import time
import warnings

import pytest
import yaml

from composer_kd.config.load import as_mapping, load_config
from composer_kd.errors import ComposerKDError
from composer_kd.workflows.sweep.sweep_file import read_sweep
from tests.fuzzing import NASTY, as_text, mutated

RUNS = (
    *('digits/kd', 'digits/kd_two_teachers', 'digits/student', 'digits/mutual', 'digits/self'),
    *('cifar10/kd_few_labels', 'knowledge/methods'),
)
SWEEPS = ('sweeps/digits', 'sweeps/cifar10')
LONGEST = 20.0  # seconds for one file, on a busy machine
FEW, MANY = 75, 10_000


def _refused_or_right(file, read):
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            read(file)
        except ComposerKDError:
            pass
        except BaseException as error:
            raise AssertionError(f'{type(error).__name__}: {error}\n{file.read_text(errors="replace")}') from error
    assert time.monotonic() - start < LONGEST, file.read_text(errors='replace')


def _try(names, read, folder, seeds):
    trees = [yaml.safe_load(pathlib.Path(f'yamls/{name}.yaml').read_text()) for name in names]
    file = folder / 'mutated.yaml'
    for seed in seeds:
        chance = random.Random(seed)
        file.write_text(as_text(mutated(chance.choice(trees), chance), chance), encoding='utf-8', errors='replace')
        _refused_or_right(file, read)


def _load(file):
    as_mapping(load_config(file))


@pytest.mark.parametrize('part', range(2))
def test_wrong_runs(part, tmp_path):
    _try(RUNS, _load, tmp_path, range(part * FEW, (part + 1) * FEW))


def test_wrong_sweeps(tmp_path):
    _try(SWEEPS, read_sweep, tmp_path, range(2 * FEW))


def test_wrong_overrides():
    chance = random.Random(0)
    keys = [
        'model',
        'model.name',
        'optimizer.lr',
        'max_duration',
        'algorithms.distillation.teachers.0.model',
        'seed',
        'a..b',
    ]
    keys += [
        'algorithms.distillation.kd_loss_fn',
        'algorithms.distillation.kd_loss_weight',
        'run_name',
        'save_interval',
        '',
    ]
    for _ in range(FEW):
        value = chance.choice(NASTY)
        written = f'{chance.choice(keys)}={value!r}' if chance.random() < 0.5 else f'{chance.choice(keys)}={value}'
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                load_config('yamls/digits/kd.yaml', [written])
            except ComposerKDError:
                pass
            except BaseException as error:
                raise AssertionError(f'{written!r}: {type(error).__name__}: {error}') from error


@pytest.mark.slow
@pytest.mark.parametrize('part', range(20))
def test_many_wrong_runs_and_sweeps(part, tmp_path):
    _try(RUNS, _load, tmp_path, range(MANY + part * MANY // 20, MANY + (part + 1) * MANY // 20))
    _try(SWEEPS, read_sweep, tmp_path, range(MANY + part * MANY // 20, MANY + (part + 1) * MANY // 20))
