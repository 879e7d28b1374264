"""The demo, in small."""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import shlex

import pytest
import torch

from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.runs.build import build_trainer
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.saved import open_runs
from composer_kd.workflows.demo import Entry, Results, Settings, demo
from composer_kd.workflows.demo.configs import student_run
from composer_kd.workflows.demo.report import in_words

SETTINGS = Settings(teacher_epochs=2, student_epochs=2)
ACCURACY = 'metrics/eval/MulticlassAccuracy'
RUNS = ['teacher', 'alone-0', 'distilled-0']


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A small demo: its folder, what it found, what it said."""
    out = tmp_path_factory.mktemp('demo')
    with contextlib.redirect_stdout(io.StringIO()) as said:
        results = demo(out, [0], SETTINGS)
    return out, results, said.getvalue()


@pytest.fixture
def small(made):
    return made[:2]


def test_it_leaves_numbers_table_and_plot(small):
    out, results = small
    written = json.loads((out / 'results.json').read_text())
    assert [model['name'] for model in written['models']] == ['teacher', 'student alone', 'student distilled']
    for model in written['models']:
        assert model['accuracy'] == model['curves'][0][-1]  # the last epoch, never the best
        assert model['parameters'] > 0
        assert model['size'] > 4 * model['parameters']
        assert 0 < model['latency'] < 1
    alone, distilled = written['models'][1:]
    assert all(alone[key] == distilled[key] for key in ('parameters', 'size', 'latency'))  # one architecture
    assert written['gain'] == pytest.approx(results.distilled.accuracy - results.alone.accuracy)
    assert in_words(results) in (out / 'results.md').read_text()
    assert (out / 'results.png').read_bytes().startswith(b'\x89PNG')
    assert (out / 'results.png').stat().st_size > 20_000


def test_it_leaves_runs_as_train_does(small):
    out, results = small
    runs = open_runs([out / name for name in RUNS])
    assert [run.name for run in runs] == ['demo-teacher', 'demo-alone-0', 'demo-distilled-0']
    assert [run.is_distilled for run in runs] == [False, False, True]
    assert runs[2].config.teachers[0].checkpoint == str(out / 'teacher' / 'latest-rank0.pt')
    for run, entry in zip(runs, results.entries):
        assert run.is_trained
        assert run.metrics[ACCURACY] == pytest.approx(entry.accuracy)
        assert evaluate(run.folder).metrics[ACCURACY] == pytest.approx(entry.accuracy)
        assert [file.name for file in run.folder.glob('ep*')] == ['ep2-ba42-rank0.pt']
        assert (run.folder / 'history.jsonl').is_file()
        assert load_config(run.folder / 'config.yaml').run_name == run.name
    alone, distilled = (run.metrics for run in runs[1:])
    assert [alone[f'time/{unit}'] for unit in ('batch', 'sample')] == [42, 2594]
    assert [distilled[f'time/{unit}'] for unit in ('batch', 'sample')] == [42, 2594]


def test_the_students_differ_in_the_teacher_alone(small):
    out, _ = small
    trainers = [build_trainer(student_run(out, SETTINGS, seed=0, distilled=asks)) for asks in (False, True)]
    alone, distilled = (trainer.state.model.state_dict() for trainer in trainers)
    assert all(torch.equal(alone[name], distilled[name]) for name in alone)
    few, all_images = (trainer.state.train_dataloader.dataset for trainer in trainers)
    kept = [place for place, target in zip(all_images.indices, all_images.targets) if target >= 0]
    assert kept == few.indices
    for trainer in trainers:
        trainer.close()


def test_the_same_seed_gives_the_same_figures(small, tmp_path):
    again = demo(tmp_path, [0], SETTINGS)
    assert [entry.curves for entry in again.entries] == [entry.curves for entry in small[1].entries]


def test_it_says_what_to_do_with_the_runs(made):
    out, _, said = made
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith('  composer-kd ')]
    assert [command[1] for command in commands] == ['evaluate', 'bench', 'report']
    for command in commands:
        found = [path for pattern in command[2:] for path in glob.glob(pattern)]
        assert {os.path.normpath(path) for path in found} == {str(out / name) for name in RUNS}


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (Settings(n_labels=1298), 'n_labels: expected an integer from 1 to 1297'),
        (Settings(batch_size=0), 'global_train_batch_size: expected an integer that is positive, got 0'),
        (Settings(temperature=-1.0), 'kd_loss_fn'),
        (Settings(student_epochs=0), 'max_duration'),
    ],
)
def test_settings_that_make_no_sense_are_told_before_training(settings, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        demo(tmp_path, [0], settings)
    assert not any(tmp_path.iterdir())


def test_a_demo_that_was_stopped_has_no_results(tmp_path, monkeypatch):
    (tmp_path / 'results.json').write_text('of an earlier one')
    with pytest.raises(ConfigError):
        demo(tmp_path, [0], Settings(batch_size=0))
    assert (tmp_path / 'results.json').exists()

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr('composer_kd.workflows.demo.study.train', stop)
    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path, [0], SETTINGS)
    assert not (tmp_path / 'results.json').exists()


def test_a_folder_that_cannot_be_made_is_told_before_training(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match=r'^--out: the folder .* cannot be used'):
        demo(tmp_path / 'file' / 'demo')


def results_of(alone, distilled):
    entries = [Entry('teacher', '', [[0.9]], 200), Entry('a', '', alone, 100), Entry('d', '', distilled, 100)]
    return Results(Settings(), (1297, 500), *entries)


def test_the_sentence_says_what_the_numbers_say():
    better = in_words(results_of([[0.5], [0.5], [0.5]], [[0.7], [0.69], [0.71]]))
    assert 'took the student from 50.0 % to 70.0 % (+20.0 points' in better
    assert '50 % of the way to the teacher' in better
    worse = in_words(results_of([[0.5], [0.51]], [[0.3], [0.31]]))
    assert 'lowered the student from 50.5 % to 30.5 % (-20.0 points' in worse
    assert 'as good as the teacher' in in_words(results_of([[0.5], [0.5]], [[0.9], [0.91]]))
    assert 'no clear difference' in in_words(results_of([[0.5], [0.6]], [[0.52], [0.59]]))
    assert '95 % interval +17.5 to +22.5 over 3 seeds)' in better  # t: 4.30 standard errors of 0.58
    # Above two standard errors, yet with two seeds the interval reaches 12.7 of them.
    few = in_words(results_of([[0.5], [0.5]], [[0.6], [0.66]]))
    assert '95 % interval -25.1 to +51.1 over 2 seeds, so no clear difference' in few
    assert 'a single seed' in in_words(results_of([[0.5]], [[0.6]]))


def test_the_standard_error_is_that_of_the_mean():
    entry = Entry('x', '', [[0.1], [0.2], [0.3]])
    assert entry.accuracy == pytest.approx(0.2)
    assert entry.standard_error == pytest.approx(0.1 / 3**0.5)
    assert Entry('x', '', [[0.1]]).standard_error is None
