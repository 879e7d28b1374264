"""Files that version 0.1 left before its modules moved: a teacher's and a student's run folder, and their YAMLs.

The student was distilled with a projector and a learned loss (``tests/files/v0.1``), 8 batches long;
``ep0-ba4-rank0.pt`` is its checkpoint after 4 of them.
"""

import json
import pathlib
import shutil

import pytest
import torch

from composer_kd.callbacks.history import curve, read_history
from composer_kd.config.load import load_config
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train

FILES = pathlib.Path(__file__).parent / 'files' / 'v0.1'
QUIET = ['progress_bar=false']


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The folder in which that version was run: paths in the files are relative to it."""
    for name in ('teacher', 'student'):
        shutil.copytree(FILES / name, tmp_path / 'old' / name)
    for yaml in (FILES / 'yamls').iterdir():
        shutil.copy(yaml, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'old'


RENAMED = {'loss/train/hint_rnn[0]': 'loss/train/hint_rnn.0'}  # a default name that MLflow would not take


def noted(folder):
    metrics = without_costs(json.loads((folder / 'metrics.json').read_text()))
    return {RENAMED.get(name, name): value for name, value in metrics.items()}


def without_costs(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith('cost/')}


def near(metrics):
    """Equal but for what another processor rounds otherwise, and one sample of 50."""
    return {
        name: pytest.approx(value, abs=0.021) if name.endswith('Accuracy') else pytest.approx(value, rel=1e-3)
        for name, value in metrics.items()
    }


@pytest.mark.parametrize('name', ['teacher', 'student'])
def test_a_checkpoint_is_worth_what_it_was(old, name):
    found = evaluate(old / name).metrics
    assert found == {key: value for key, value in near(noted(old / name)).items() if key in found}


def test_a_run_folder_is_opened(old):
    run = open_run(old / 'student')
    assert run.name == 'student'
    assert run.is_distilled
    assert [teacher.checkpoint for teacher in run.config.teachers] == ['old/teacher/latest-rank0.pt']
    assert curve(read_history(old / 'student'), 'loss/train/vid')


def test_a_checkpoint_with_a_projector_and_a_learned_loss_is_gone_on_from(old, tmp_path):
    """Four more batches lead to what that version's eight led to."""
    (old / 'student' / 'latest-rank0.pt').unlink()
    shutil.move(old / 'student' / 'ep0-ba4-rank0.pt', old / 'student' / 'latest-rank0.pt')
    metrics = train(load_config('student.yaml', [*QUIET, 'autoresume=true']), quiet=True)
    assert without_costs(metrics) == near(noted(FILES / 'student'))
    weights, before = (
        torch.load(path, weights_only=False)['state']['model']
        for path in (old / 'student' / 'ep1-ba8-rank0.pt', FILES / 'student' / 'latest-rank0.pt')
    )
    assert weights.keys() == before.keys()
    assert any(key.startswith('composer_kd.') for key in weights)
    for key, value in weights.items():
        torch.testing.assert_close(value, before[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('written', ['student.yaml', 'old/student/config.yaml'])
def test_a_yaml_trains_to_the_same_numbers(old, written):
    metrics = train(load_config(written, [*QUIET, 'save_folder=new']), quiet=True)
    assert without_costs(metrics) == near(noted(FILES / 'student'))
