"""Runs with peers and exits, from a YAML: trained, resumed, evaluated, compared, and used as teachers."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from composer_kd.bench import BenchResults
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import CheckpointError, ConfigError
from composer_kd.models import ShallowCNN
from composer_kd.presentation.console import terminal
from composer_kd.presentation.roles import DISTILLED
from composer_kd.reports.groups import group
from composer_kd.runs.beside import joint_net, names_beside
from composer_kd.runs.compared import compared_models
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train
from composer_kd.teachers import load_weights, read_weights
from composer_kd.workflows.profile.run import profile
from composer_kd.workflows.report.gather import ReportOptions, gather

QUICK = ['progress_bar=false', 'train_loader.dataset.subset=128', 'eval_loader.dataset.subset=100']
SHORT = [*QUICK, 'max_duration=4ba', 'eval_interval=4ba', 'save_interval=1ba', 'save_num_checkpoints_to_keep=-1']
NAMES = {'mutual': ['deep', 'twin'], 'self': ['exit.layer1', 'exit.layer2']}
PEERS = 'algorithms.mutual_learning.peers'


def run(name, folder, *overrides):
    return train(load_config(f'yamls/digits/{name}.yaml', [*SHORT, f'save_folder={folder}', *overrides]), quiet=True)


def weights(folder):
    return torch.load(folder / 'latest-rank0.pt', weights_only=False)['state']['model']


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The folder of a run of mutual learning and of one of self-distillation, and their final metrics."""
    folder = tmp_path_factory.mktemp('runs')
    return folder, {name: run(name, folder / name) for name in NAMES}


@pytest.mark.parametrize('name', NAMES)
def test_an_evaluation_finds_what_training_found(runs, name, capsys):
    folder, metrics = runs
    measured = {key: value for key, value in metrics[name].items() if key.startswith('metrics/')}
    assert {f'metrics/eval/{net}/MulticlassAccuracy' for net in NAMES[name]} <= measured.keys()
    found = evaluate(folder / name)
    assert found.metrics == pytest.approx(measured, rel=1e-6)
    assert list(found.beside) == NAMES[name]
    assert main(['evaluate', str(folder / name)]) == 0
    shown = capsys.readouterr().out
    assert all(f'  {net} ' in shown for net in NAMES[name])
    written = json.loads((folder / name / 'metrics.json').read_text())
    assert measured.items() <= written.items()


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('stop', ['ep0-ba2', 'ep1-ba3'])
def test_a_resume_is_bit_equal(runs, name, stop, tmp_path):
    """At the end of an epoch of two batches, and inside the next."""
    for file in ('config.yaml', 'history.jsonl', f'{stop}-rank0.pt'):
        shutil.copy(runs[0] / name / file, tmp_path / file)
    (tmp_path / 'latest-rank0.pt').symlink_to(f'{stop}-rank0.pt')
    run(name, tmp_path, 'autoresume=true')
    straight, resumed = weights(runs[0] / name), weights(tmp_path)
    assert any('composer_kd' in key for key in straight)
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())


def test_other_peers_are_another_run(runs, tmp_path):
    shutil.copytree(runs[0] / 'mutual', tmp_path / 'mutual', symlinks=True)
    with pytest.raises(ConfigError, match=rf'{PEERS}\.1\.lr: .* → 0\.3'):
        run('mutual', tmp_path / 'mutual', 'autoresume=true', f'{PEERS}.1.lr=0.3')


def test_nets_are_those_of_the_checkpoint(runs):
    folder, _ = runs
    saved = weights(folder / 'mutual')
    twin = joint_net(open_run(folder / 'mutual'), 'twin').model.state_dict()
    assert all(torch.equal(value, saved[f'composer_kd.peer_twin.net.{key}']) for key, value in twin.items())
    head = joint_net(open_run(folder / 'self'), 'exit.layer2').model.head.state_dict()
    saved = weights(folder / 'self')
    assert all(torch.equal(value, saved[f'composer_kd.exit_layer2.head.{key}']) for key, value in head.items())
    with pytest.raises(ConfigError, match=r"no net 'twn' was trained beside the student; did you mean 'twin'\?"):
        joint_net(open_run(folder / 'mutual'), 'twn')
    assert names_beside(open_run('yamls/digits/kd.yaml')) == []


def test_they_are_compared_after_their_student(runs):
    found = compared_models([open_run(runs[0] / name) for name in NAMES])
    assert [(one.name, one.role, one.taught_by) for one in found] == [
        (f'digits-{name}' + (f' {net}' if net else ''), DISTILLED, (f'digits-{name}',) if net else ())
        for name, nets in NAMES.items()
        for net in ('', *nets)
    ]


def test_they_are_timed_each_on_its_own(runs, tmp_path):
    folder, metrics = runs
    quick = ['--devices', 'cpu', '--threads', '1', '--budget', '0.02', '--max-batch', '2', '--precisions', 'fp32']
    both = [str(folder / name) for name in NAMES]
    assert main(['bench', *both, '--out', str(tmp_path / 'bench'), *quick, '--backends', 'eager']) == 0
    rows = BenchResults.read(tmp_path / 'bench').rows
    assert {row.model for row in rows} == {
        f'digits-{name}' + (f' {net}' if net else '') for name, nets in NAMES.items() for net in ('', *nets)
    }
    for row in rows:
        run_name, _, net = row.model.partition(' ')
        key = f'metrics/eval/{net}/MulticlassAccuracy' if net else 'metrics/eval/MulticlassAccuracy'
        assert row.failed is None
        assert row.accuracy == pytest.approx(metrics[run_name.removeprefix('digits-')][key], abs=1e-6)
        assert row.output_match == 1
    own = [row for row in rows if row.model.startswith('digits-self') and row.setting.backend == 'eager']
    whole, first, second = sorted(own, key=lambda row: row.model)
    assert first.parameters < second.parameters < whole.parameters
    assert first.flops < second.flops < whole.flops


def test_each_is_a_model_of_its_own_in_a_report(runs):
    """A peer of the student's class is no second seed of it."""
    opened = [open_run(runs[0] / name) for name in NAMES]
    found = gather(opened, ReportOptions([], with_bench=False), terminal(quiet=True))
    assert [(one.name, one.n) for one in group(found.models)] == [(one.name, 1) for one in compared_models(opened)]
    for one in found.models:
        name, _, net = one.name.removeprefix('digits-').partition(' ')
        key = f'metrics/eval/{net}/MulticlassAccuracy' if net else 'metrics/eval/MulticlassAccuracy'
        right = (one.answers.predicted == found.evaluation.labels).mean()
        assert one.metrics['metrics/eval/MulticlassAccuracy'] == pytest.approx(right)
        assert right == pytest.approx(runs[1][name][key])
    models = [one.settings['model']['name'] for one in found.models]
    assert models == ['ShallowCNN', 'DeepCNN', 'ShallowCNN', 'CifarResNet', 'CifarResNet', 'CifarResNet']


@pytest.mark.parametrize('net', [None, 'exit.layer1', 'twin'])
def test_one_of_them_is_exported(runs, net, tmp_path, monkeypatch):
    name = 'mutual' if net == 'twin' else 'self'
    chosen = [] if net is None else ['--net', net]
    assert main(['export', str(runs[0] / name), '--to', 'state-dict', *chosen, '--out', str(tmp_path)]) == 0
    written = torch.load(tmp_path / 'state-dict' / 'student.pt', weights_only=True)
    assert not any('composer_kd' in key for key in written)
    assert any(key.startswith('head.') for key in written) == (net == 'exit.layer1')
    text = (tmp_path / 'state-dict' / 'README.md').read_text()
    assert f'# digits-{name}' + (f' {net}' if net else '') in text
    key = f'metrics/eval/{net}/MulticlassAccuracy' if net else 'metrics/eval/MulticlassAccuracy'
    assert f'| accuracy, % | {100 * runs[1][name][key]:.2f} |' in text
    assert text.count('accuracy, %') == 1
    scope = {}
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / 'state-dict')
        exec(re.search(r'```python\n(.*?)```', text, re.DOTALL)[1], scope)
    assert scope['logits'].shape == (1, 10)


def test_a_net_that_is_not_there_is_not_exported(runs, capsys):
    assert main(['export', str(runs[0] / 'self'), '--to', 'state-dict', '--net', 'exit.layr1']) == 2
    assert "no net 'exit.layr1' was trained beside the student; did you mean 'exit.layer1'" in capsys.readouterr().err


def test_the_student_alone_is_evaluated_alone(runs, tmp_path):
    """Its exported weights, with the settings of its run."""
    assert main(['export', str(runs[0] / 'self'), '--to', 'state-dict', '--out', str(tmp_path)]) == 0
    found = evaluate(tmp_path / 'state-dict' / 'student.pt', runs[0] / 'self' / 'config.yaml')
    assert not found.beside
    assert found.metrics == {
        key: pytest.approx(value)
        for key, value in runs[1]['self'].items()
        if key.startswith('metrics/') and 'exit' not in key
    }


def test_a_peer_may_become_a_teacher(runs, tmp_path):
    checkpoint = runs[0] / 'mutual' / 'latest-rank0.pt'
    entry = 'composer_kd.peer_deep.net'
    options = [f'algorithms.distillation.teachers.0.entry={entry}', f'variables.teacher={checkpoint}']
    metrics = run('kd', tmp_path, *options, 'algorithms.distillation.run_teacher_on_eval=true')
    assert metrics['metrics/eval/teacher/MulticlassAccuracy'] == pytest.approx(
        runs[1]['mutual']['metrics/eval/deep/MulticlassAccuracy'], rel=1e-6
    )
    with pytest.raises(CheckpointError, match=r"has no entry 'composer_kd\.peer_slow\.net'"):
        read_weights(checkpoint, 'composer_kd.peer_slow.net')
    student = ShallowCNN(in_channels=1, image_size=8, num_classes=10)
    load_weights(student, checkpoint)  # the student's own, although a peer is of the same class
    assert torch.equal(student.features[0].weight, weights(runs[0] / 'mutual')['module.features.0.weight'])


@pytest.mark.parametrize(
    ('name', 'overrides', 'said'),
    [
        (
            'mutual',
            [f'{PEERS}.0.model.num_classes=7', f'{PEERS}.1.model.image_size=32'],
            [r"peers\.0: the peer 'deep': fails .* answers in the shape \(1, 7\)", r"peers\.1: the peer 'twin': fails"],
        ),
        (
            'self',
            ['algorithms.self_distillation.exits=[layer4, layer1, linear0]'],
            [
                r"exits\.0: the exit 'layer4': fails .* has no layer 'layer4'; did you mean",
                r"exits\.2: the exit 'linear0'",
            ],
        ),
        (
            'self',
            ['algorithms.self_distillation.features=layer4'],
            [r"self_distillation\.features: layer4: fails .* has no layer 'layer4'; did you mean"],
        ),
    ],
)
def test_what_does_not_fit_is_said_before_training_together(name, overrides, said, tmp_path):
    with pytest.raises(ConfigError) as caught:
        run(name, tmp_path, *overrides)
    for one in said:
        assert re.search(one, str(caught.value)), str(caught.value)


def test_a_profile_does_not_miss_a_teacher(tmp_path):
    config = load_config('yamls/digits/self.yaml', [*QUICK, 'max_duration=8ba', 'global_train_batch_size=16'])
    assert not any('No teacher ran' in note for note in profile(config, batches=2, folder=tmp_path).notes)
