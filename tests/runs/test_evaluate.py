"""``composer-kd evaluate``."""

from __future__ import annotations

import shutil

import pytest
import torch
from omegaconf import OmegaConf

from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from composer_kd.models import DeepCNN
from composer_kd.runs.build import build_model
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.train import train
from tests.config.test_check import KD


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The folder of a finished run, and its final metrics."""
    folder = tmp_path_factory.mktemp('student')
    overrides = ['max_duration=5ba', 'progress_bar=false', f'save_folder={folder}']
    return folder, train(load_config('yamls/digits/student.yaml', overrides))


def test_it_finds_what_training_found(finished):
    folder, metrics = finished
    found = evaluate(folder)
    assert found.checkpoint == folder / 'latest-rank0.pt'
    assert found.metrics == pytest.approx({k: v for k, v in metrics.items() if k.startswith('metrics/eval')})
    assert found.parameters == 21_690
    assert 4 * found.parameters < found.size < 4 * found.parameters + 10_000


def test_the_config_may_lie_above_the_checkpoint_or_be_named(finished, tmp_path):
    folder, _ = finished
    nested = tmp_path / 'checkpoints'
    nested.mkdir()
    shutil.copy(folder / 'latest-rank0.pt', nested / 'model.pt')
    with pytest.raises(ConfigError, match=r'no config\.yaml beside'):
        evaluate(nested / 'model.pt')
    expected = evaluate(nested / 'model.pt', folder / 'config.yaml')
    shutil.copy(folder / 'config.yaml', tmp_path / 'config.yaml')
    assert evaluate(nested / 'model.pt') == expected


def test_a_plain_state_dict_will_do(finished, tmp_path):
    folder, _ = finished
    model = build_model(load_config(folder / 'config.yaml').model)
    torch.save(model.module.state_dict(), tmp_path / 'plain.pt')
    assert evaluate(tmp_path / 'plain.pt', folder / 'config.yaml').parameters == 21_690


def test_missing_and_damaged_checkpoints_are_said_clearly(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(CheckpointNotFoundError, match='no checkpoint'):
        evaluate(tmp_path / 'nothing.pt')
    with pytest.raises(CheckpointNotFoundError, match='a folder without'):
        evaluate(tmp_path)
    damaged = tmp_path / 'damaged.pt'
    damaged.write_bytes((folder / 'latest-rank0.pt').read_bytes()[:1000])
    with pytest.raises(CheckpointError, match='truncated'):
        evaluate(damaged, folder / 'config.yaml')


def test_a_run_of_another_machine_is_evaluated_on_this_one(finished, tmp_path):
    content = OmegaConf.load(finished[0] / 'config.yaml')
    content.update(
        precision='amp_bf16', device_train_microbatch_size='auto', fsdp_config={}, optimizer={'name': 'gone'}
    )
    OmegaConf.save(content, tmp_path / 'gpu.yaml')
    assert evaluate(finished[0], tmp_path / 'gpu.yaml') == evaluate(finished[0])


@pytest.mark.parametrize(
    ('argument', 'said'),
    [('yamls/digits/kd.yaml', 'is not a checkpoint'), ('s3://bucket/x.pt', 'cannot be fetched')],
)
def test_what_is_no_checkpoint_of_this_machine_is_refused(argument, said, capsys):
    assert main(['evaluate', argument]) == 2
    assert said in capsys.readouterr().err


def test_the_command_prints_a_table(finished, capsys):
    assert main(['evaluate', str(finished[0]), str(finished[0])]) == 0
    printed = capsys.readouterr().out
    for word in ('accuracy', 'loss', 'parameters', 'size', '21,690'):
        assert word in printed


def test_what_matches_learned_is_no_part_of_the_student(tmp_path, finished):
    torch.save(DeepCNN(in_channels=1, image_size=8).state_dict(), tmp_path / 'teacher.pt')
    match = 'algorithms.distillation.kd_loss_fn={loss: hint, on: [features.2, features.4], project: auto}'
    common = [f'variables.teacher={tmp_path}/teacher.pt', 'progress_bar=false', 'train_loader.dataset.subset=64']
    metrics = train(load_config(KD, [*common, match, 'max_duration=1ba', f'save_folder={tmp_path}/run']))
    checkpoint = tmp_path / 'run' / 'latest-rank0.pt'
    assert any('projector' in key for key in torch.load(checkpoint, weights_only=False)['state']['model'])
    found = evaluate(checkpoint)
    assert found.metrics == pytest.approx({k: v for k, v in metrics.items() if k.startswith('metrics/eval')})
    assert found.parameters == 21_690

    def go_on(*overrides):
        return train(load_config(KD, [*common, 'max_duration=2ba', 'save_folder=null', *overrides]))['time/batch']

    assert go_on(match, f'load_path={checkpoint}') == 2
    weights_alone = ['load_weights_only=true', 'load_strict_model_weights=false']
    for path, settings in ((checkpoint, []), (finished[0] / 'latest-rank0.pt', [match])):
        assert go_on(*settings, f'load_path={path}', *weights_alone) == 2
        with pytest.raises(ConfigError, match=r'load_path: what is trained beside the student in this run is not'):
            go_on(*settings, f'load_path={path}', 'load_weights_only=true')
