"""Whole runs from a YAML."""

from __future__ import annotations

import json

import pytest
import torch

from composer_kd.run.config import load_config
from composer_kd.run.train import train

QUICK = ['progress_bar=false', 'train_loader.dataset.subset=128', 'eval_loader.dataset.subset=100']


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """A trained teacher's latest checkpoint."""
    folder = tmp_path_factory.mktemp('teacher')
    train(load_config('yamls/digits/teacher.yaml', [*QUICK, 'max_duration=1ep', f'save_folder={folder}']))
    return folder / 'latest-rank0.pt'


def run(teacher, folder, *overrides, yaml='yamls/digits/kd.yaml'):
    common = [*QUICK, f'variables.teacher={teacher}', f'save_folder={folder}', 'max_duration=1ep']
    return train(load_config(yaml, [*common, *overrides]))


def weights(folder):
    return torch.load(folder / 'latest-rank0.pt', weights_only=False)['state']['model']


def test_a_run_leaves_config_metrics_and_checkpoint(teacher, tmp_path):
    metrics = run(teacher, tmp_path)
    assert {'metrics/eval/MulticlassAccuracy', 'metrics/eval/CrossEntropy', 'loss/train/kd'} <= set(metrics)
    assert metrics['loss/train/total'] == pytest.approx(
        0.1 * metrics['loss/train/task'] + 0.9 * metrics['loss/train/kd'], rel=1e-5
    )
    assert json.loads((tmp_path / 'metrics.json').read_text()) == metrics
    assert (tmp_path / 'latest-rank0.pt').is_file()
    saved = load_config(tmp_path / 'config.yaml')
    assert saved.algorithms['distillation'].options['kd_loss_fn'].options == {'temperature': 4.0}


def test_two_identical_runs_give_identical_metrics_and_weights(teacher, tmp_path):
    first, second = (run(teacher, tmp_path / name) for name in ('a', 'b'))
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(weights(tmp_path / 'a').values(), weights(tmp_path / 'b').values()))
    assert run(teacher, tmp_path / 'c', 'seed=18') != first


def test_the_same_yaml_runs_again_over_its_own_folder(teacher, tmp_path):
    assert run(teacher, tmp_path) == run(teacher, tmp_path)


def test_autoresume_goes_on_as_if_never_stopped(teacher, tmp_path, monkeypatch):
    # The schedule must be the whole run's: stop it by an error in the middle, as a machine that goes away would.
    resume = ['autoresume=true', 'save_interval=1ep', 'max_duration=3ep']
    straight = run(teacher, tmp_path / 'straight', *resume)

    def stop(self, state, logger):
        if int(state.timestamp.epoch) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('composer.callbacks.SpeedMonitor.epoch_end', stop)
        with pytest.raises(KeyboardInterrupt):
            run(teacher, tmp_path / 'stopped', *resume, 'callbacks={speed_monitor: {}}')
    assert not (tmp_path / 'stopped' / 'metrics.json').exists()
    resumed = run(teacher, tmp_path / 'stopped', *resume, 'callbacks={speed_monitor: {}}')
    assert resumed == straight
    pairs = zip(weights(tmp_path / 'straight').values(), weights(tmp_path / 'stopped').values())
    assert all(torch.equal(a, b) for a, b in pairs)


def test_autoresume_of_a_finished_run_evaluates_it(teacher, tmp_path, capsys):
    first = run(teacher, tmp_path, 'autoresume=true')
    again = run(teacher, tmp_path, 'autoresume=true')
    assert 'had already reached 1ep' in capsys.readouterr().out
    accuracy = 'metrics/eval/MulticlassAccuracy'
    assert again[accuracy] == first[accuracy]


def test_few_labels_and_two_teachers_run(teacher, tmp_path):
    metrics = run(teacher, tmp_path / 'few', yaml='yamls/digits/kd_few_labels.yaml')
    assert metrics['loss/train/kd'] > 0
    both = f'variables.teacher_2={teacher}'
    assert run(teacher, tmp_path / 'two', both, yaml='yamls/digits/kd_two_teachers.yaml')['loss/train/kd'] > 0


@pytest.mark.data
def test_the_pretrained_resnet56_teaches_the_shallow_cnn(tmp_path):
    overrides = ['max_duration=3ba', 'eval_subset_num_batches=1', f'save_folder={tmp_path}', 'progress_bar=false']
    metrics = train(load_config('yamls/cifar10/kd_resnet56.yaml', overrides))
    assert metrics['time/batch'] == 3
