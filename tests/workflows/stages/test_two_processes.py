"""A chain in two processes with gloo, by the composer launcher: stopped, started again, and as in one process."""

import os
import pathlib
import subprocess
import sys
import time

import pytest
import torch

from composer_kd.config.stages import load_chain
from composer_kd.workflows.stages import train_stages

ROOT = pathlib.Path(__file__).parents[3]
YAML = 'yamls/digits/born_again.yaml'
SHORT = [
    *('progress_bar=false', 'train_loader.dataset.subset=256', 'eval_loader.dataset.subset=100', 'max_duration=2ep'),
    *('save_interval=3ba', 'stages.student.generations=2'),
]


def launch(folder):
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', '-m', 'composer_kd', 'train', YAML, *SHORT]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    return subprocess.Popen(
        [*command, f'save_folder={folder}'], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def weights(folder):
    return torch.load(folder / 'latest-rank0.pt', weights_only=False)['state']['model']


@pytest.mark.slow
def test_a_chain_in_two_processes(tmp_path):
    straight, stopped = tmp_path / 'straight', tmp_path / 'stopped'
    said, _ = (process := launch(straight)).communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    process, end = launch(stopped), time.monotonic() + 200
    while not list(stopped.glob('student-1/ep*.pt')) and time.monotonic() < end:
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=100)
    assert not list(stopped.glob('student-2/ep*.pt'))
    said, _ = (process := launch(stopped)).communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    alone = train_stages(load_chain(YAML, [*SHORT, f'save_folder={tmp_path / "alone"}']), quiet=True)
    assert set(alone) == {'teacher', 'student-1', 'student-2', 'student'}
    for name in ('teacher', 'student-1', 'student-2'):
        one, two, three = (weights(folder / name) for folder in (straight, stopped, tmp_path / 'alone'))
        assert all(torch.equal(value, two[key]) for key, value in one.items()), name
        assert all(torch.allclose(value, three[key], atol=1e-6) for key, value in one.items()), name
