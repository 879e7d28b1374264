"""``composer-kd report`` on runs that were trained."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import warnings

import numpy as np
import pytest
import torch
import wandb
from omegaconf import OmegaConf
from rich.console import Console
from wandb.sdk.internal.datastore import DataStore

from composer_kd.bench import BenchResults
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import CheckpointNotFoundError, ConfigError
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.saved import open_runs
from composer_kd.runs.train import train
from composer_kd.workflows.report import ReportOptions, report
from composer_kd.workflows.report.predict import why_not
from composer_kd.workflows.report.wandb import destination
from tests.deploy import tiny
from tests.reports.building import EAGER, row

SHORT = ['max_duration=4ba', 'progress_bar=false', 'train_loader.dataset.subset=128', 'eval_loader.dataset.subset=100']


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A teacher, and from two seeds a student alone and distilled."""
    folder = tmp_path_factory.mktemp('runs')
    torch.set_num_threads(1)

    def go(yaml, name, *overrides):
        train(
            load_config(
                f'yamls/digits/{yaml}.yaml', [*SHORT, f'save_folder={folder}/{name}', f'run_name={name}', *overrides]
            )
        )

    go('teacher', 'teacher')
    for seed in (1, 2):
        go('student', f'alone-{seed}', f'seed={seed}')
        go('kd', f'kd-{seed}', f'seed={seed}', f'variables.teacher={folder}/teacher/latest-rank0.pt')
    return folder


@pytest.fixture(scope='module')
def names(runs):
    return [str(runs / name) for name in ('teacher', 'alone-1', 'alone-2', 'kd-1', 'kd-2')]


def bench_file(folder, models):
    rows = [row(name, parameters=count, p50=p50) for name, count, p50 in models]
    content = {'rows': [json.loads(json.dumps(one, default=vars)) for one in rows]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'bench.json').write_text(json.dumps(content))
    return folder


@pytest.fixture(scope='module')
def written(runs, names):
    """The report of all five, with timings found beside it."""
    bench_file(runs / 'bench', [('teacher', 201_642, 2e-3), ('kd-1', 21_690, 5e-4), ('alone-1', 21_690, 5e-4)])
    assert main(['report', *names, '--out', str(runs / 'report')]) == 0
    return runs / 'report'


def test_its_commands_make_it_again_beside_what_is_there(runs, written, monkeypatch, tmp_path):
    folder = tmp_path / 'runs'
    shutil.copytree(runs, folder, symlinks=True)
    train(load_config('yamls/digits/student.yaml', [*SHORT, f'save_folder={folder}/{{run_name}}', 'run_name=s']))
    monkeypatch.chdir(tmp_path)
    paths = ['runs/kd-1', 'runs/s', 'runs/alone-1']
    report(ReportOptions(paths, out=folder / 'report', with_bench=False), Console(quiet=True))
    commands = json.loads((folder / 'report' / 'report.json').read_text())['commands']
    assert 'composer-kd train runs/s/config.yaml run_name=s-again' in commands
    before = {file: file.read_bytes() for file in folder.glob('*/*') if file.is_file() and file.parent.name != 'report'}
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    assert all(file.read_bytes() == content for file, content in before.items())
    names = ['kd-1', 's', 'alone-1']
    for name in names:
        again, first = (json.loads((folder / one / 'metrics.json').read_text()) for one in (f'{name}-again', name))
        assert again['loss/train/total'] == first['loss/train/total']


def test_the_numbers_are_those_of_an_evaluation(runs, written):
    found = json.loads((written / 'report.json').read_text())
    assert [(one['model'], one['role'], one['runs']) for one in found['models']] == [
        ('teacher', 'teacher', 1), ('alone', 'student alone', 2), ('kd', 'student distilled', 2)
    ]  # fmt: skip
    for name, member in zip(('kd-1', 'kd-2'), found['models'][2]['members']):
        expected = evaluate(runs / name).metrics
        assert member['accuracy'] == pytest.approx(expected['metrics/eval/MulticlassAccuracy'])
        assert member['metrics']['metrics/eval/MulticlassAccuracy'] == pytest.approx(member['accuracy'])
    losses = [evaluate(runs / name).metrics['metrics/eval/CrossEntropy'] for name in ('kd-1', 'kd-2')]
    assert found['models'][2]['loss'] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found['models'][2]['parameters'] == 21_690
    assert found['evaluation']['samples'] == 100
    assert found['models'][2]['speed_up_cpu_1_threads'] == 4.0
    assert found['models'][2]['training_seconds'] > 0


def test_what_training_left_is_drawn_and_told(written):
    page = (written / 'report.html').read_text()
    assert 'id="curves"' in page
    assert 'What it cost' in page
    assert 'Training curves are left out' not in page
    markdown = (written / 'report.md').read_text()
    assert '| algorithms.distillation.kd\\_loss\\_fn.temperature | (nothing) | (nothing) | 4.0 |' in markdown
    assert 'composer-kd report' in markdown


def test_one_run_is_enough_and_its_speed_is_measured(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('composer_kd.workflows.report.timings.BUDGET', 0.1)
    found = report(ReportOptions([runs / 'alone-1'], tmp_path / 'report'))
    assert [one.name for one in found.groups] == ['alone-1']
    timing = found.speed.timings[0]
    assert timing.setting == EAGER
    assert 0 < timing.latency < 1
    assert 'No distilled student' in capsys.readouterr().out
    assert (tmp_path / 'report' / 'report.html').is_file()


def test_a_teacher_that_is_not_given_is_found(runs, tmp_path):
    found = report(ReportOptions([runs / 'kd-1'], tmp_path, with_bench=False))
    assert [(one.name, one.role) for one in found.groups] == [('teacher', 'teacher'), ('kd-1', 'student distilled')]
    assert found.groups[0].first.answers is not None
    assert any('Speed was not measured' in note for note in found.notes)


def test_what_counts_instead_is_said(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs / 'kd-1', tmp_path / 'kd')
    shutil.copy(tmp_path / 'kd' / 'latest-rank0.pt', tmp_path / 'kd' / 'early.pt')
    content = OmegaConf.load(tmp_path / 'kd' / 'config.yaml')
    content.algorithms.distillation.teachers[0].checkpoint = str(tmp_path / 'gone' / 'latest-rank0.pt')
    OmegaConf.save(content, tmp_path / 'kd' / 'config.yaml')
    assert main(['report', 'kd/early.pt', '--out', 'report', '--no-bench']) == 0
    printed = capsys.readouterr()
    assert 'UserWarning' not in printed.err
    page = (tmp_path / 'report' / 'report.html').read_text()
    assert 'Of kd-1 the checkpoint early.pt answers, not the latest' in page
    assert 'A teacher is left out of the comparison' in page
    assert 'gone/latest-rank0.pt' in page
    assert str(tmp_path) not in page


def test_a_run_that_was_stopped_or_is_old_is_reported(runs, tmp_path):
    stopped, old = tmp_path / 'stopped', tmp_path / 'old'
    for folder in (stopped, old):
        shutil.copytree(runs / 'kd-1', folder)
        (folder / 'config.yaml').write_text((runs / 'kd-1' / 'config.yaml').read_text().replace('kd-1', folder.name))
    (stopped / 'metrics.json').unlink()
    (old / 'history.jsonl').unlink()
    (old / 'metrics.json').write_text('{"metrics/eval/MulticlassAccuracy": 0.5}')
    found = report(ReportOptions([stopped, old], tmp_path / 'report', with_bench=False))
    said = ' '.join(found.notes)
    assert 'stopped did not come to its end' in said
    assert 'old has no training curves' in said
    assert 'old did not note what its training cost' in said


def test_a_run_without_a_checkpoint_is_refused_before_any_work(runs, tmp_path):
    yaml = tmp_path / 'student.yaml'
    OmegaConf.save({**OmegaConf.load('yamls/digits/student.yaml'), 'save_folder': str(tmp_path / 'none')}, yaml)
    with pytest.raises(CheckpointNotFoundError, match='digits-student has no checkpoint'):
        report(ReportOptions([yaml, runs / 'kd-1'], tmp_path / 'report'))
    with pytest.raises(CheckpointNotFoundError, match='a folder without'):
        report(ReportOptions([tmp_path], tmp_path / 'report'))


def test_runs_on_other_data_are_refused(runs, tmp_path):
    shutil.copytree(runs / 'alone-1', tmp_path / 'other')
    file = tmp_path / 'other' / 'config.yaml'
    content = OmegaConf.load(file)
    content.eval_loader.dataset.split = 'train'
    OmegaConf.save(content, file)
    with pytest.raises(ConfigError, match='evaluated on different data'):
        report(ReportOptions([runs / 'alone-2', tmp_path / 'other'], tmp_path / 'report'))


def test_timings_of_other_models_are_refused(runs, tmp_path, capsys):
    other = bench_file(tmp_path / 'timed', [('somebody', 1, 1e-3)])
    assert main(['report', str(runs / 'kd-1'), '--out', str(tmp_path / 'report'), '--bench', str(other)]) == 2
    assert 'none of the models of this report' in capsys.readouterr().err
    assert main(['report', str(runs / 'kd-1'), '--out', str(tmp_path / 'report'), '--bench', str(tmp_path)]) == 2


class Wavering(torch.utils.data.Dataset):
    """Labels that change from one reading to the next."""

    num_classes = 10

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.zeros(1, 8, 8), int(torch.randint(10, ()))


def test_data_that_changes_is_refused(runs, tmp_path):
    for name in ('alone-1', 'alone-2'):
        shutil.copytree(runs / name, tmp_path / name)
        content = OmegaConf.load(tmp_path / name / 'config.yaml')
        content.eval_loader.dataset = {'name': 'tests.workflows.report.test_report.Wavering'}
        OmegaConf.save(content, tmp_path / name / 'config.yaml')
    with pytest.raises(ConfigError, match='in another order'):
        report(ReportOptions([tmp_path / 'alone-1', tmp_path / 'alone-2'], tmp_path / 'report', with_bench=False))


class Numbers(torch.utils.data.Dataset):
    """A regression, in which one sample in four has the label -100; or classes, in a column or in another dtype."""

    def __init__(self, regression=True, mapping=False, column=False, dtype=None):
        self.regression, self.mapping, self.column, self.dtype = regression, mapping, column, dtype

    def __len__(self):
        return 20

    def __getitem__(self, index):
        label = -100 if index % 4 == 0 and self.dtype != 'uint8' else index % 10
        label = float(label) if self.regression else label
        if self.column or self.dtype:
            label = torch.tensor([label] if self.column else label, dtype=getattr(torch, self.dtype or 'int64'))
        image = torch.full((1, 8, 8), index / 20)
        return {'pixels': image, 'labels': label} if self.mapping else (image, label)


def change_data(runs, folder, options):
    shutil.copytree(runs / 'alone-1', folder)
    content = OmegaConf.load(folder / 'config.yaml')
    content.eval_loader.dataset = {'name': 'tests.workflows.report.test_report.Numbers', **options}
    OmegaConf.save(content, folder / 'config.yaml')
    return report(ReportOptions([folder], folder / 'report', with_bench=False))


@pytest.mark.parametrize('mapping', [False, True])
def test_samples_without_a_label_do_not_count(runs, tmp_path, mapping):
    found = change_data(runs, tmp_path / 'few', {'regression': False, 'mapping': mapping})
    assert (len(found.evidence.evaluation.labels), found.evidence.evaluation.unlabelled) == (15, 5)
    assert '5 more have no label' in found.evaluated


@pytest.mark.parametrize(
    ('options', 'known'),
    [
        ({'column': True}, 15),
        ({'column': True, 'mapping': True}, 15),
        ({'dtype': 'int8'}, 15),
        ({'dtype': 'uint8'}, 20),
        ({'dtype': 'uint8', 'column': True}, 20),
    ],
)
def test_labels_in_a_column_or_in_bytes_are_those_of_samples(options, known, runs, tmp_path):
    found = change_data(runs, tmp_path / 'few', {'regression': False, **options})
    numbers = [index % 10 for index in range(20) if known == 20 or index % 4]
    assert found.evidence.evaluation.labels.tolist() == numbers
    assert found.evidence.evaluation.unlabelled == 20 - known
    plain = change_data(runs, tmp_path / 'plain', {'regression': False})
    (ours,), (theirs,) = (one.evidence.models for one in (found, plain))
    at = [number for number, index in enumerate(range(20)) if index % 4]
    nll = ours.answers.nll if known == 15 else ours.answers.nll[at]
    assert nll.tolist() == pytest.approx(theirs.answers.nll.tolist())


def test_labels_that_are_no_classes_leave_sections_out(runs, tmp_path):
    found = change_data(runs, tmp_path / 'soft', {'regression': True})
    assert any('the labels are no class numbers' in note for note in found.notes)
    assert 'classes' not in found.drawings
    assert 'curves' in found.drawings


@pytest.mark.parametrize(
    ('logits', 'labels', 'said'),
    [
        (torch.zeros(2, 7, 5), torch.zeros(2, 7).long(), 'for tokens or pixels'),
        (torch.zeros(2, 1), torch.zeros(2), 'with a number'),
        (torch.zeros(2, 3), None, 'no labels'),
        (torch.zeros(2, 3), torch.zeros(2, 3), 'no class numbers'),
    ],
)
def test_it_is_said_why_answers_are_no_classes(logits, labels, said):
    assert said in why_not(logits, labels)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_DIR', str(tmp_path))
    monkeypatch.setenv('WANDB_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setenv('WANDB_DATA_DIR', str(tmp_path / 'data'))
    monkeypatch.setenv('WANDB_SILENT', 'true')
    return tmp_path


def logged_in(file):
    """The records of an offline run, without the marks of blocks that may cut a name in two."""
    store = DataStore()
    store.open_for_scan(str(file))
    return b''.join(iter(store.scan_data, None))


@pytest.mark.slow
def test_wandb_gets_tables_plots_and_artifacts_offline(runs, offline, capsys):
    options = ReportOptions([runs / 'teacher', runs / 'kd-1'], offline / 'report', with_bench=False, wandb='a-project')
    found = report(options)
    assert 'W&B: offline in' in ' '.join(capsys.readouterr().out.split())
    wandb.teardown()  # as the end of the process does: W&B's own process writes the rest of its record then
    (run,) = offline.glob('wandb/offline-run-*')
    media = {file.name.rsplit('_', 2)[0] for file in run.rglob('media/**/*') if file.is_file()}
    assert {'models', 'settings', *found.drawings} <= media
    record = logged_in(next(run.glob('*.wandb')))
    for said in (b'a-project', b'student', b'teacher', b'latest-rank0.pt', b'report.html', b'report.json'):
        assert said in record


def test_wandb_is_on_where_a_run_logs_to_it(runs, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(
        'composer_kd.reports.wandb.log_to_wandb', lambda report, files, project: sent.append((files, project))
    )
    shutil.copytree(runs / 'alone-1', tmp_path / 'logged')
    content = OmegaConf.load(tmp_path / 'logged' / 'config.yaml')
    content.loggers = {'wandb': {'project': 'of-the-run'}}
    OmegaConf.save(content, tmp_path / 'logged' / 'config.yaml')
    for more, expected in ([], ['of-the-run']), (['--no-wandb'], []):
        sent.clear()
        assert main(['report', str(tmp_path / 'logged'), '--out', str(tmp_path / 'report'), '--no-bench', *more]) == 0
        assert [project for _, project in sent] == expected
    assert destination(open_runs([tmp_path / 'logged']), 'mine') == 'mine'


def test_a_wandb_that_fails_loses_nothing(runs, tmp_path, monkeypatch, capsys):
    def fail(*args):
        raise ConnectionError('no route to host')

    monkeypatch.setattr('wandb.init', lambda **options: fail())
    report(ReportOptions([runs / 'alone-1'], tmp_path, with_bench=False, wandb='x'))
    printed = ' '.join(capsys.readouterr().out.split())
    assert 'W&B: not logged (ConnectionError: no route to host)' in printed
    assert (tmp_path / 'report.html').is_file()


def test_a_run_that_held_a_part_out_is_reported_on_that(tmp_path):
    overrides = ['max_duration=2ba', 'progress_bar=false', 'train_loader.hold_out=0.1', 'eval_loader=null']
    metrics = train(load_config('yamls/digits/student.yaml', [*overrides, f'save_folder={tmp_path}/run']), quiet=True)
    assert main(['report', f'{tmp_path}/run', '--no-bench', '--out', f'{tmp_path}/page']) == 0
    found = json.loads((tmp_path / 'page' / 'report.json').read_text())
    assert 'digits(split=train, hold_out=0.1)' in json.dumps(found)
    accuracy = found['models'][0]['accuracy']
    assert accuracy == pytest.approx(metrics['metrics/eval/MulticlassAccuracy'])


OF_MAPPINGS = """
run_name: kd
model: {name: tests.deploy.tiny.OfMappings}
train_loader: {dataset: {name: tests.deploy.tiny.Measured}}
eval_loader: {dataset: {name: tests.deploy.tiny.Measured, n: 20}}
optimizer: {name: DecoupledSGDW, lr: 0.1}
algorithms:
  distillation:
    teachers: {model: {name: tests.deploy.tiny.Keywords}}
    kd_loss_fn: KLDivergence
max_duration: 2ba
global_train_batch_size: 8
progress_bar: false
"""


def test_a_teacher_that_takes_any_keyword_teaches_is_evaluated_timed_and_exported(tmp_path, capsys):
    (tmp_path / 'kd.yaml').write_text(OF_MAPPINGS)
    train(load_config(tmp_path / 'kd.yaml', [f'save_folder={tmp_path}/kd']), quiet=True)
    assert main(['report', str(tmp_path / 'kd'), '--out', str(tmp_path / 'report')]) == 0
    found = json.loads((tmp_path / 'report' / 'report.json').read_text())
    assert [(one['model'], one['role']) for one in found['models']] == [
        ('Keywords', 'teacher'), ('kd', 'student distilled')
    ]  # fmt: skip
    x, y = tiny.Measured(20).columns, tiny.Measured(20).columns['labels'].numpy()
    with torch.no_grad():
        predicted = tiny.Keywords()(**x).argmax(1).numpy()
    assert found['models'][0]['members'][0]['accuracy'] == pytest.approx(np.mean(predicted == y))
    assert [one['failed'] for one in found['timings']] == [None] * len(found['timings'])
    assert {one['model'] for one in found['timings']} == {'Keywords', 'kd'}
    capsys.readouterr()
    quick = ['--devices', 'cpu', '--threads', '1', '--backends', 'eager', '--budget', '0.02', '--max-batch', '2']
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        assert main(['bench', str(tmp_path / 'kd'), '--out', str(tmp_path / 'bench'), *quick]) == 0
    shown = capsys.readouterr()
    assert 'no checkpoint is given' in shown.out
    assert 'UserWarning' not in shown.out + shown.err
    assert {row.model: row.failed for row in BenchResults.read(tmp_path / 'bench').rows} == {
        'Keywords': None,
        'kd': None,
    }
    formats = ['--to', 'torch-export', 'state-dict']
    assert main(['export', str(tmp_path / 'kd'), *formats, '--out', str(tmp_path / 'export')]) == 0


@pytest.mark.parametrize(
    ('file', 'text', 'said'),
    [
        ('metrics.json', '[]', 'expected metrics by name, got a list'),
        ('metrics.json', '{"metrics/eval/MulticlassAccuracy": "0.9"}', "expected a number for .*, got '0.9'"),
        ('metrics.json', '{"loss/train/to', 'is damaged'),
        ('metrics.json', '[' * 100_000, 'is damaged'),
    ],
)
def test_damaged_metrics_end_a_report_before_any_model_is_evaluated(file, text, said, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules['composer_kd.workflows.report.gather'], 'Answering', None)
    copies = [shutil.copytree(runs / 'alone-1', tmp_path / name) for name in 'ab']
    for copy in copies:
        (copy / file).write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        report(ReportOptions(copies, tmp_path / 'report', with_bench=False))
    assert all(str(copy / file) in str(error.value) for copy in copies)


@pytest.mark.parametrize(
    'line',
    [
        '{"batch": 7, "loss/train/total": "high"}',
        '{"batch": 1e999}',
        '{"batch": 3, "loss/train/kd": [1]}',
        '7',
        '{"batch": 3, "x": true}',
    ],
)
def test_a_history_that_holds_no_numbers_is_left_out_with_the_reason(line, runs, tmp_path):
    copy = shutil.copytree(runs / 'alone-1', tmp_path / 'copy')
    history = (copy / 'history.jsonl').read_text()
    (copy / 'history.jsonl').write_text(f'{history}{line}\n{{"batch": 8}}\n')
    found = report(ReportOptions([copy], tmp_path / 'report', with_bench=False))
    assert any('has no training curves' in note for note in found.notes)
    assert not found.groups[0].first.curves
