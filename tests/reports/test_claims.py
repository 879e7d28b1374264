"""A report claims no more than was measured, also of odd input, and tells nothing of the machine's folders."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import warnings

import numpy as np
import pytest

from composer_kd.bench.results import BenchResults, SpeedUp, Throughput
from composer_kd.presentation.paths import portable
from composer_kd.presentation.units import TIMES
from composer_kd.reports import ALONE, DISTILLED, TEACHER, Curve, Predictions, Report
from composer_kd.reports.figures.throughput import draw_throughput
from composer_kd.reports.groups import gain, group
from composer_kd.reports.metrics import calibration
from composer_kd.reports.numbers import as_mapping
from composer_kd.reports.speed import Speed
from composer_kd.reports.statistics import difference_of_runs
from tests.reports.building import EAGER, answers, called, evidence, row, settings, subject, timings

LABELS = np.zeros(4, dtype=int)


def changed(given, change):
    return dataclasses.replace(given, models=tuple(change(one) for one in given.models))


def test_a_larger_student_is_not_called_smaller():
    def grown(one):
        return one if one.role == TEACHER else dataclasses.replace(one, file_bytes=84_000, parameters=20_000)

    tile = Report(changed(evidence(seeds=(0,)), grown)).tiles[2]
    assert (tile.value, tile.label, tile.detail) == (f'2.0{TIMES}', 'larger on disk', f'2.0{TIMES} as many parameters')


def test_a_student_of_the_same_size_is_called_that():
    same = changed(evidence(seeds=(0,)), lambda one: dataclasses.replace(one, file_bytes=42_000, parameters=10_000))
    assert not any('disk' in tile.label for tile in Report(same).tiles)


def test_a_seed_that_comes_twice_is_no_pair():
    given = evidence()
    again = called(given.models[-1], 'kd-2-again')
    report = Report(dataclasses.replace(given, models=(*given.models, again)))
    found = gain(report.distilled, report.alone, given.evaluation)
    means = [one.accuracy(given.evaluation).mean for one in (report.distilled, report.alone)]
    assert found.mean == pytest.approx(means[0] - means[1])
    assert 'pairs' not in found.over


def test_seeds_that_agree_by_chance_do_not_make_a_gain_certain():
    right = {TEACHER: 380, ALONE: 300, DISTILLED: 340}
    given = evidence()
    labels = given.evaluation.labels

    def fixed(one):
        predicted = np.where(np.arange(400) < right[one.role], labels, (labels + 1) % 5)
        return dataclasses.replace(one, answers=dataclasses.replace(one.answers, predicted=predicted))

    report = Report(changed(given, fixed))
    found = gain(report.distilled, report.alone, given.evaluation)
    assert found.low < 0.1 < found.high
    assert found.over == '400 samples'


def test_an_interval_of_shares_ends_at_everything():
    found = difference_of_runs({1: 0.9, 2: 0.1}, {1: 0.1, 2: 0.2})
    assert (found.low, found.high) == (-1.0, 1.0)


def test_a_model_that_diverged_is_not_called_well_calibrated():
    assert np.isnan(calibration([np.nan, 0.9], [True, True]).error)
    given = evidence()
    nothing = np.full(400, np.nan)
    broken = dataclasses.replace(given.models[-1], answers=Predictions(np.zeros(400, int), nothing, nothing))
    report = Report(dataclasses.replace(given, models=(*given.models[:-1], broken)))
    line = report.rows()[2]
    assert (line['loss'], line['calibration_error']) == (None, None)
    assert any('kd-2 gives probabilities that are not finite for 400 of 400 samples' in note for note in report.notes)
    assert 'calibration' in report.drawings
    json.dumps(as_mapping(report), allow_nan=False)


def test_runs_from_other_weights_are_no_seeds_of_one():
    loaded = settings(1, ALONE, load_path='pretrained.pt')
    given = [subject(ALONE, seed, LABELS, 1.0, settings=one) for seed, one in enumerate([settings(0, ALONE), loaded])]
    assert [one.n for one in group(given)] == [1, 1]


def test_what_else_differs_is_said_beside_the_gain():
    def other(one):
        own = {**one.settings, 'optimizer': {'lr': 0.5}} if one.role == ALONE else one.settings
        return dataclasses.replace(one, settings={**own, 'save_folder': one.name})

    said = Report(changed(evidence(), other)).verdict
    assert any('differ in optimizer.lr too' in sentence for sentence in said)
    assert not any('The two differ' in sentence for sentence in Report(evidence()).verdict)


def test_a_model_that_teaches_its_own_kind_is_the_student_alone():
    """As the first of born-again generations; one that is known as a teacher alone, or was taught itself, is not."""
    given = evidence(seeds=(0,))
    model = {'name': 'ShallowCNN'}
    models = {one.role: dataclasses.replace(one, settings={**one.settings, 'model': model}) for one in given.models}
    teacher, student = models[TEACHER], models[DISTILLED]
    report = Report(dataclasses.replace(given, models=(teacher, student)))
    assert report.alone.first is teacher
    assert any('Distillation lowered the student from' in sentence for sentence in report.verdict)
    assert 'confusions' in report.drawings
    for other in (
        dataclasses.replace(teacher, settings={'model': model}),
        dataclasses.replace(teacher, distilled_by=('distillation',)),
    ):
        said = Report(dataclasses.replace(given, models=(other, student))).verdict
        assert any('no run of the same model without a teacher' in sentence for sentence in said)


def test_durations_of_as_many_batches_are_no_difference():
    def other(one):
        duration = {ALONE: '40ba', DISTILLED: '4ep', TEACHER: '1ep'}[one.role]
        return dataclasses.replace(one, settings={**one.settings, 'max_duration': duration})

    assert not any('max_duration' in sentence for sentence in Report(changed(evidence(), other)).verdict)


def test_a_device_without_a_sweep_of_the_models_shown_has_no_empty_panel():
    alone = row('alone-0', throughput=[Throughput(1, 9.0), Throughput(2, 12.0)])
    single = [row(name, throughput=[Throughput(1, 9.0)]) for name in ('teacher', 'kd-0')]
    report = Report(evidence(bench=BenchResults([*single, alone])))
    assert draw_throughput(report.groups, report.speed) is None


def test_a_run_of_one_batch_is_drawn_without_remarks():
    one_batch = Curve(np.array([0]), np.array([2.3]))
    given = changed(evidence(seeds=(0,)), lambda one: dataclasses.replace(one, curves={'task': one_batch}))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert 'curves' in Report(given).drawings


def test_the_uncertainty_of_a_speed_up_is_told():
    paired = row('kd-0', speed_up=SpeedUp('teacher', 3.9, 3.7, 4.2))
    report = Report(evidence(bench=BenchResults([row('teacher', p50=4e-3), paired])))
    assert Speed(report.groups, report.evidence.bench).quartiles(report.speed.timings[1]) == (3.7, 4.2)
    assert report.models.rows[2][-1].note == f'3.9{TIMES} as fast, 3.7 to 4.2'
    assert report.tiles[3].detail == 'eager, fp32, one sample; quartiles 3.7 to 4.2'
    line = report.rows()[2]
    assert (line['speed_up_cpu_1_threads_low'], line['speed_up_cpu_1_threads_high']) == (3.7, 4.2)
    told = as_mapping(report)['timings'][1]
    assert told['speed_up'] == {'against': 'teacher', 'median': 3.9, 'low': 3.7, 'high': 4.2}
    assert told['setting']['device'] == EAGER.device


def test_one_machine_is_told_once():
    here = {'torch': '2.7', 'load at start': '1.00'}
    bench = timings()
    bench.environment = {**here, 'load at start': '3.00', 'free memory at start': '1 GiB'}
    assert len(Report(evidence(bench=bench, environment=here)).environments()) == 1


def test_paths_are_told_from_where_one_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', '/somewhere/of/julia')
    assert (
        portable(f"train '{tmp_path}/runs/a/config.yaml' x=/somewhere/of/julia/y") == "train 'runs/a/config.yaml' x=~/y"
    )
    assert portable('gone: /else/where/of/kd/latest.pt: 3/4 of https://host/a/b') == (
        'gone: …/kd/latest.pt: 3/4 of https://host/a/b'
    )
    assert portable('runs/a and /data') == 'runs/a and /data'


def test_a_report_tells_nothing_of_the_folders_of_a_machine():
    folder = '/secret/folders/of/somebody/runs'

    def elsewhere(one):
        return dataclasses.replace(
            one,
            checkpoint=f'{folder}/{one.name}/latest-rank0.pt',
            command=f'composer-kd train {folder}/{one.name}/config.yaml',
            settings={**one.settings, 'save_folder': f'{folder}/{one.name}'},
        )

    given = dataclasses.replace(
        changed(evidence(seeds=(0,), bench=timings()), elsewhere),
        command=f'composer-kd report {folder}/kd-0',
        bench_source=f'Timings: {folder}/bench.',
        notes=(f'no training history {folder}/kd-0/history.jsonl: it is gone',),
    )
    report = Report(given)
    told = [json.dumps(as_mapping(report), ensure_ascii=False), report.about_timings, *report.commands()]
    told += [cell.text for line in report.differences.rows for cell in line]
    assert not [one for one in told if 'secret' in one]
    assert 'composer-kd train …/kd-0/config.yaml' in report.commands()
    assert pathlib.Path(given.models[-1].checkpoint).is_absolute()  # W&B needs the file itself


def test_models_of_another_kind_leave_answers_out_for_all():
    given = evidence(seeds=(0,))
    some = (*given.models[:-1], dataclasses.replace(given.models[-1], answers=None))
    nothing = dataclasses.replace(given.evaluation, labels=LABELS[:0], classes=(), left_out='they answer with a number')
    report = Report(dataclasses.replace(given, models=some, evaluation=nothing))
    assert not {'classes', 'calibration', 'confusions'} & set(report.drawings)
    assert [line['accuracy'] for line in report.rows()] == [None] * 3


def test_classes_without_samples_are_left_out():
    given = evidence()
    labels = np.where(given.evaluation.labels == 3, 2, given.evaluation.labels)
    given = changed(given, lambda one: dataclasses.replace(one, answers=answers(labels, 0.8, (one.seed or 0) + 3)))
    report = Report(dataclasses.replace(given, evaluation=dataclasses.replace(given.evaluation, labels=labels)))
    shown = [text.get_text() for text in report.drawings['classes'].figure.axes[0].get_yticklabels()]
    assert 'class 3' not in shown
    assert len(shown) == 4
    assert as_mapping(report)['models'][0]['class_accuracies'][3] is None
