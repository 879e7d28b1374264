"""What a new interpreter has imported after each of the steps that a user takes: one process takes them all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import composer_kd

ROOT = Path(__file__).parents[1]
CODE = """
import json, sys

def packages():
    return {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names) - {'composer_kd'}

def models():
    return len([name for name in sys.modules if name.startswith('transformers.models.')])

import composer
of_composer = packages()
import composer_kd
found = {'losses': [composer_kd.losses.__name__, 'losses' in dir(composer_kd)]}
from composer_kd import Distillation
found['more than composer'] = sorted(packages() - of_composer)
import composer_kd.runs.train
found['benchmark'] = 'torch.utils.benchmark' in sys.modules
import torch, transformers
from composer_kd.deploy import Inference
found['predicts next token'] = Inference(torch.nn.Linear(2, 3), torch.zeros(1, 2)).predicts_next_token
found['models'] = models()
found['testing'] = [composer_kd.testing.__name__, 'testing' in dir(composer_kd)]
print(json.dumps(found))
"""


@pytest.fixture(scope='module')
def done():
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', CODE], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope='module')
def found(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('room', ['losses', 'testing'])
def test_rooms_need_no_import_of_their_own(found, room):
    assert found[room] == [f'composer_kd.{room}', True]
    assert not hasattr(composer_kd, 'losess')


def test_import_loads_no_package_that_composer_does_not(found):
    assert found['more than composer'] == []


def test_training_loads_no_benchmark_and_says_nothing_at_its_start(done, found):
    assert not found['benchmark']
    assert done.stderr == ''


def test_to_ask_for_the_next_token_imports_no_models(found):
    assert not found['predicts next token']
    assert found['models'] < 20
