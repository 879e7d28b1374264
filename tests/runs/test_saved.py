"""Runs that lie in folders."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf

from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.saved import open_run, open_runs
from composer_kd.runs.train import train
from tests.config.test_check import KD


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The folder of a finished run, and its final metrics."""
    folder = tmp_path_factory.mktemp('student')
    overrides = ['max_duration=3ba', 'progress_bar=false', f'save_folder={folder}']
    return folder, train(load_config('yamls/digits/student.yaml', overrides), quiet=True)


def trained_weights(folder):
    state = torch.load(folder / 'latest-rank0.pt', weights_only=False)['state']['model']
    return {key.removeprefix('module.'): value for key, value in state.items()}


def test_a_folder_is_the_run_with_its_latest_weights(finished):
    folder, metrics = finished
    run = open_run(folder)
    assert (run.name, run.is_trained, run.is_distilled) == ('digits-student', True, False)
    assert run.folder == folder
    assert run.metrics == pytest.approx(metrics)
    assert run.written['optimizer']['lr'] == 0.01
    model = run.model()
    assert not model.training
    found = model.module.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in trained_weights(folder).items())


def test_its_data_is_the_test_data_in_order(finished):
    from composer_kd.data import digits

    x, _ = next(iter(open_run(finished[0]).loader()))
    assert torch.equal(x[5], digits('test')[5][0])


def test_a_yaml_means_the_run_it_describes_or_random_weights(finished, tmp_path):
    folder, _ = finished
    content = OmegaConf.load('yamls/digits/student.yaml')
    content.save_folder = str(folder)
    OmegaConf.save(content, tmp_path / 'mine.yaml')
    assert open_run(tmp_path / 'mine.yaml').checkpoint == folder / 'latest-rank0.pt'
    content.save_folder = str(tmp_path / 'nothing')
    OmegaConf.save(content, tmp_path / 'mine.yaml')
    run = open_run(tmp_path / 'mine.yaml')
    assert (run.is_trained, run.folder, run.metrics) == (False, None, {})
    assert run.model().num_classes == 10


def test_a_yaml_stands_for_the_run_as_it_was_trained(finished, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(finished[0], folder)
    content = OmegaConf.load('yamls/digits/student.yaml')
    content.save_folder = str(folder)
    content.model.name = 'DeepCNN'  # changed since, or another was given on the command line
    content.eval_loader.dataset.subset = 7
    OmegaConf.save(content, tmp_path / 'mine.yaml')
    run = open_run(tmp_path / 'mine.yaml')
    assert run.config.model.name == run.written['model']['name'] == 'ShallowCNN'
    assert len(run.loader().dataset) == 500
    run.model()
    (folder / 'config.yaml').unlink()  # where nothing else says how it was, the YAML does
    assert open_run(tmp_path / 'mine.yaml').config.model.name == 'DeepCNN'
    # The settings of a run that was moved are of the run beside them.
    shutil.copytree(finished[0], tmp_path / 'moved')
    assert open_run(tmp_path / 'moved' / 'config.yaml').checkpoint == tmp_path / 'moved' / 'latest-rank0.pt'


def test_settings_for_a_yaml_are_refused():
    with pytest.raises(ConfigError, match=r'student\.yaml holds the settings itself: leave --config out'):
        open_run('yamls/digits/student.yaml', 'yamls/digits/kd.yaml')


def test_a_run_that_was_stopped_has_no_metrics(finished, tmp_path):
    for name in ('latest-rank0.pt', 'config.yaml'):
        shutil.copy(finished[0] / name, tmp_path / name)
    assert open_run(tmp_path).metrics == {}


def test_the_teachers_of_a_run(tmp_path):
    OmegaConf.save(OmegaConf.load('yamls/digits/kd_two_teachers.yaml'), tmp_path / 'two.yaml')
    run = open_run(tmp_path / 'two.yaml')
    assert [teacher.name for teacher in run.config.teachers] == ['first', 'second']
    assert run.is_distilled


def test_runs_of_one_name_are_told_apart_by_their_folders(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / 'again')
    runs = open_runs([finished[0], tmp_path / 'again', 'yamls/digits/kd.yaml'])
    assert [run.name for run in runs] == [str(finished[0]), str(tmp_path / 'again'), 'digits-kd']


def test_all_faults_are_said_at_once(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)no checkpoint '.*a'.*no checkpoint '.*b'.*no configuration file"):
        open_runs([tmp_path / 'a', finished[0], tmp_path / 'b', tmp_path / 'c.yaml'])
    with pytest.raises(CheckpointNotFoundError, match=r'a folder without latest-rank0\.pt'):
        open_run(tmp_path)
    with pytest.raises(ConfigError, match='cannot be fetched'):
        open_run('s3://bucket/run.pt')


def test_without_evaluation_data_there_is_nothing_to_evaluate_on(finished, tmp_path):
    shutil.copy(finished[0] / 'latest-rank0.pt', tmp_path)
    content = OmegaConf.load(finished[0] / 'config.yaml')
    content.eval_loader = None
    OmegaConf.save(content, tmp_path / 'config.yaml')
    with pytest.raises(ConfigError, match='digits-student: the run has no eval_loader'):
        open_run(tmp_path).loader()


def test_weights_of_another_model_are_refused(finished, tmp_path):
    shutil.copy(finished[0] / 'latest-rank0.pt', tmp_path)
    content = OmegaConf.load(finished[0] / 'config.yaml')
    content.model.name = 'DeepCNN'
    OmegaConf.save(content, tmp_path / 'config.yaml')
    with pytest.raises(CheckpointError, match='do not fit'):
        open_run(tmp_path).model()


def test_settings_of_another_machine_do_not_matter_but_those_of_the_model_do(finished, tmp_path):
    shutil.copy(finished[0] / 'latest-rank0.pt', tmp_path)
    content = OmegaConf.load(finished[0] / 'config.yaml')
    content.device_train_microbatch_size = 'auto'
    content.optimizer = {'name': 'gone'}
    OmegaConf.save(content, tmp_path / 'config.yaml')
    assert open_run(tmp_path).model().num_classes == 10
    content.model.nam_classes = 3
    OmegaConf.save(content, tmp_path / 'config.yaml')
    with pytest.raises(ConfigError, match="did you mean 'num_classes'"):
        open_run(tmp_path)


def test_metrics_are_what_the_file_says(finished):
    folder, _ = finished
    assert open_run(folder).metrics == json.loads((folder / 'metrics.json').read_text())


def test_a_distilled_run_needs_no_teacher_to_be_opened():
    assert open_run(KD).is_distilled


def test_a_run_that_held_out_a_part_of_its_training_data_is_evaluated_on_that(tmp_path):
    overrides = ['max_duration=2ba', 'progress_bar=false', f'save_folder={tmp_path}', 'train_loader.hold_out=0.1']
    metrics = train(load_config('yamls/digits/student.yaml', overrides), quiet=True)
    loader = open_run(tmp_path).loader()
    assert 130 <= len(loader.dataset) <= 150  # a tenth of the 1,437 training digits
    found = evaluate(tmp_path).metrics['metrics/eval/MulticlassAccuracy']
    assert found == pytest.approx(metrics['metrics/eval/MulticlassAccuracy'])


def test_the_same_run_twice_is_refused(finished):
    with pytest.raises(ConfigError, match='is given 2 times'):
        open_runs([finished[0], finished[0] / 'latest-rank0.pt'])


def test_damaged_metrics_are_said(finished, tmp_path):
    for name in ('latest-rank0.pt', 'config.yaml'):
        shutil.copy(finished[0] / name, tmp_path / name)
    (tmp_path / 'metrics.json').write_text('{"loss')
    with pytest.raises(ConfigError, match=r'metrics\.json is damaged'):
        _ = open_run(tmp_path).metrics


def test_a_yaml_for_a_gpu_can_be_opened_without_one(tmp_path):
    content = OmegaConf.load('yamls/digits/student.yaml')
    content.device_train_microbatch_size = 'auto'
    content.precision = 'amp_bf16'
    OmegaConf.save(content, tmp_path / 'gpu.yaml')
    assert open_run(tmp_path / 'gpu.yaml').name == 'digits-student'


@pytest.mark.parametrize('name', [{'a': 1}, ['a'], 3, '../up'])
def test_a_record_whose_name_is_none_is_refused(name, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / 'run')
    content = OmegaConf.load(tmp_path / 'run' / 'config.yaml')
    content.run_name = name
    OmegaConf.save(content, tmp_path / 'run' / 'config.yaml')
    with pytest.raises(ConfigError, match='run_name: expected a string'):
        open_run(tmp_path / 'run')


def test_a_run_is_shown_as_it_is_called(finished, tmp_path, capsys):
    """Brackets are markup to the library that prints tables."""
    shutil.copytree(finished[0], tmp_path / 'a[red]b[/x]')
    assert main(['evaluate', str(tmp_path / 'a[red]b[/x]')]) == 0
    assert 'a[red]b[/x]' in capsys.readouterr().out.replace('\n', '').replace(' ', '').replace('│', '')
