"""Whole runs from a YAML."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from composer_kd.callbacks.history import curve, read_history
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.runs.train import train

QUICK = ['progress_bar=false', 'train_loader.dataset.subset=128', 'eval_loader.dataset.subset=100']


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """A trained teacher's latest checkpoint."""
    folder = tmp_path_factory.mktemp('teacher')
    train(load_config('yamls/digits/teacher.yaml', [*QUICK, 'max_duration=1ep', f'save_folder={folder}']))
    return folder / 'latest-rank0.pt'


@pytest.fixture(scope='module')
def good_teacher(tmp_path_factory):
    """The checkpoint of a teacher that knows most digits."""
    folder = tmp_path_factory.mktemp('good')
    train(load_config('yamls/digits/teacher.yaml', ['progress_bar=false', 'max_duration=3ep', f'save_folder={folder}']))
    return folder / 'latest-rank0.pt'


def run(teacher, folder, *overrides, yaml='yamls/digits/kd.yaml'):
    """A run's metrics without what it cost, which differs from time to time."""
    common = [*QUICK, f'variables.teacher={teacher}', f'save_folder={folder}', 'max_duration=1ep']
    metrics = train(load_config(yaml, [*common, *overrides]))
    return {key: value for key, value in metrics.items() if not key.startswith('cost/')}


def weights(folder):
    return torch.load(folder / 'latest-rank0.pt', weights_only=False)['state']['model']


def test_a_run_leaves_config_metrics_and_checkpoint(teacher, tmp_path):
    metrics = run(teacher, tmp_path)
    assert {'metrics/eval/MulticlassAccuracy', 'metrics/eval/CrossEntropy', 'loss/train/kd'} <= set(metrics)
    assert metrics['loss/train/total'] == pytest.approx(
        0.1 * metrics['loss/train/task'] + 0.9 * metrics['loss/train/kd'], rel=1e-5
    )
    written = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics.items() <= written.items()
    assert curve(read_history(tmp_path), 'loss/train/kd')[1][-1] == metrics['loss/train/kd']
    assert (tmp_path / 'latest-rank0.pt').is_file()
    saved = load_config(tmp_path / 'config.yaml')
    assert saved.algorithms['distillation'].options['kd_loss_fn'].options == {'temperature': 4.0}


def test_two_identical_runs_give_identical_metrics_and_weights(teacher, tmp_path):
    first, second = (run(teacher, tmp_path / name) for name in ('a', 'b'))
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(weights(tmp_path / 'a').values(), weights(tmp_path / 'b').values()))
    assert run(teacher, tmp_path / 'c', 'seed=18') != first


def test_the_same_yaml_runs_again_over_its_own_folder(teacher, tmp_path):
    assert run(teacher, tmp_path) == run(teacher, tmp_path, 'save_overwrite=true')


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
    noted = json.loads((tmp_path / 'metrics.json').read_text())
    assert run(teacher, tmp_path, 'autoresume=true') == first
    assert 'had already reached 1ep' in capsys.readouterr().out
    # Also what it cost, of which the checkpoint knows a part: it was saved before the last evaluation.
    assert json.loads((tmp_path / 'metrics.json').read_text()) == noted
    for spoilt in ('{', '{"time/batch": 1, "loss/train/total": 0.0}'):  # damaged; of another run
        (tmp_path / 'metrics.json').write_text(spoilt)
        assert run(teacher, tmp_path, 'autoresume=true') == first  # the losses are in the history


def test_autoresume_with_other_settings_is_refused(teacher, tmp_path):
    run(teacher, tmp_path, 'autoresume=true')
    changes = ['autoresume=true', 'optimizer.lr=0.5', 'algorithms.distillation.kd_loss_fn.temperature=2']
    with pytest.raises(ConfigError, match=r'autoresume: .* holds a run with other settings') as caught:
        run(teacher, tmp_path, *changes)
    lines = str(caught.value).splitlines()
    assert '  optimizer.lr: 0.01 → 0.5' in lines
    assert '  algorithms.distillation.kd_loss_fn.temperature: 4.0 → 2' in lines
    assert len(lines) == 4
    free = ['max_duration=2ep', 'callbacks={lr_monitor: {}}', 'save_interval=2ep', 'train_loader.pin_memory=false']
    assert run(teacher, tmp_path, 'autoresume=true', *free)['time/epoch'] == 2


def test_autoresume_goes_on_from_a_folder_of_another_version(teacher, tmp_path):
    run(teacher, tmp_path, 'autoresume=true')
    file = tmp_path / 'config.yaml'
    written = yaml.safe_load(file.read_text())
    for section in (written, written['train_loader']):
        section['of_old'] = 3  # a key that exists no more
    del written['precision'], written['train_loader']['hold_out_seed']  # and two that are new
    file.write_text(yaml.safe_dump(written))
    assert run(teacher, tmp_path, 'autoresume=true', 'max_duration=2ep')['time/epoch'] == 2


def test_metrics_of_an_earlier_run_do_not_stay_beside_another_config(teacher, tmp_path, monkeypatch):
    run(teacher, tmp_path)
    monkeypatch.setattr('composer.Trainer.fit', lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(teacher, tmp_path, 'seed=3', 'save_overwrite=true')
    assert not (tmp_path / 'metrics.json').exists()


def test_few_labels_and_two_teachers_run(teacher, good_teacher, tmp_path):
    # Without the labels' loss, what the student knows it can have from a trained teacher alone.
    watched = ['algorithms.distillation.run_teacher_on_eval=true', 'train_loader.dataset.n_labels=10']
    longer = ['train_loader.dataset.subset=null', 'max_duration=5ep', 'optimizer.lr=0.03']
    longer.append('algorithms.distillation.org_loss_weight=0.0')
    metrics = run(good_teacher, tmp_path / 'few', *watched, *longer, yaml='yamls/digits/kd_few_labels.yaml')
    assert metrics['metrics/eval/teacher/MulticlassAccuracy'] > 0.8
    assert metrics['metrics/eval/MulticlassAccuracy'] > 0.6
    both = f'variables.teacher_2={teacher}'
    assert run(teacher, tmp_path / 'two', both, yaml='yamls/digits/kd_two_teachers.yaml')['loss/train/kd'] > 0


@pytest.mark.data
def test_the_pretrained_resnet56_teaches_the_shallow_cnn(tmp_path):
    overrides = ['max_duration=3ba', 'eval_subset_num_batches=2', f'save_folder={tmp_path}', 'progress_bar=false']
    overrides.append('algorithms.distillation.run_teacher_on_eval=true')
    metrics = train(load_config('yamls/cifar10/kd_resnet56.yaml', overrides))
    assert metrics['time/batch'] == 3
    assert metrics['metrics/eval/teacher/MulticlassAccuracy'] > 0.9
