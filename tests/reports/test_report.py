"""What a report says, and that it says no more than it knows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from composer_kd.bench.results import BenchResults, Setting, SpeedUp, Throughput
from composer_kd.presentation.units import TIMES
from composer_kd.reports import ALONE, DISTILLED, TEACHER, Report
from composer_kd.reports.groups import counterpart, group
from composer_kd.reports.speed import Speed
from tests.reports.building import EAGER, answers, evidence, row, settings, subject, timings


@pytest.fixture(scope='module')
def report():
    return Report(evidence(bench=timings()))


def texts(table, column):
    index = [one.heading for one in table.columns].index(column)
    return [row[index].text for row in table.rows]


def test_runs_that_differ_in_their_seed_alone_are_one_group(report):
    assert [(one.name, one.role, one.n) for one in report.groups] == [
        ('teacher', TEACHER, 1), ('alone', ALONE, 3), ('kd', DISTILLED, 3)
    ]  # fmt: skip
    labels = np.zeros(4, dtype=int)
    other = settings(2, ALONE, optimizer={'lr': 0.2})
    fixed = settings(2, ALONE)
    fixed['train_loader']['dataset']['seed'] = 7  # not the run's own
    given = [
        subject(ALONE, seed, labels, 1.0, settings=one) for seed, one in enumerate([settings(0, ALONE), other, fixed])
    ]
    assert [one.n for one in group(given)] == [1, 1, 1]


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['kd-17', 'kd-18'], 'kd'),
        (['resnet-18-seed1', 'resnet-18-seed2'], 'resnet-18'),
        (['runs/a/1', 'runs/a/2'], 'runs/a'),
        (['one', 'two'], 'one and 1 more'),
    ],
)
def test_groups_have_the_name_that_their_runs_share(names, expected):
    labels = np.zeros(4, dtype=int)
    given = [subject(ALONE, seed, labels, 1.0, name=name) for seed, name in enumerate(names)]
    assert [one.name for one in group(given)] == [expected]


def test_groups_that_would_be_called_alike_are_told_apart():
    labels = np.zeros(4, dtype=int)
    given = [
        subject(role, seed, labels, 1.0, name=f'run-{seed}{role[-1]}') for seed in (1, 2) for role in (ALONE, DISTILLED)
    ]
    names = [one.name for one in group(given)]
    assert len(set(names)) == 2


def test_the_table_has_means_and_standard_errors(report):
    data = report.evidence.evaluation
    found = [np.mean(one.answers.predicted == data.labels) for one in report.groups[2].members]
    error = np.std(found, ddof=1) / np.sqrt(3)
    assert texts(report.models, 'accuracy')[2] == f'{100 * np.mean(found):.1f} ± {100 * error:.1f}'
    assert texts(report.models, 'accuracy')[0].count('±') == 0
    assert texts(report.models, 'agreement')[0] == ''
    assert texts(report.models, 'parameters') == ['10,000', '1,000', '1,000']
    rows = report.rows()
    assert rows[2]['accuracy'] == pytest.approx(np.mean(found))
    assert rows[2]['accuracy_standard_error'] == pytest.approx(error)
    assert rows[2]['size_reduction'] == pytest.approx(8.4)
    assert rows[2]['speed_up_cpu_1_threads'] == pytest.approx(4.0)
    assert rows[1]['latency_seconds_cpu_1_threads'] is None


def test_the_verdict_says_what_was_kept_gained_saved(report):
    kept, gained = report.verdict
    assert f'8.4{TIMES} smaller on disk' in kept
    assert f'4.0{TIMES} faster (CPU, 1 thread)' in kept
    assert "of its teacher's accuracy" in kept
    assert gained.startswith('Distillation took the student from')
    assert 'over 3 seeds, in pairs' in gained
    assert [tile.value for tile in report.tiles][2:] == [f'8.4{TIMES}', f'4.0{TIMES}']


def with_accuracies(alone, distilled, seeds=(0,), samples=400):
    given = evidence(seeds=seeds, samples=samples)
    shares = {TEACHER: 0.95, ALONE: alone, DISTILLED: distilled}
    labels = given.evaluation.labels
    changed = [
        dataclasses.replace(one, answers=answers(labels, shares[one.role], (one.seed or 0) + 7 * len(one.role)))
        for one in given.models
    ]
    return Report(dataclasses.replace(given, models=tuple(changed)))


def test_differences_within_the_noise_are_called_that():
    kept, gained = with_accuracies(0.8, 0.8, seeds=(0, 1, 2)).verdict
    assert 'there is no clear difference' in gained
    assert 'keeps 8' in kept
    same = with_accuracies(0.8, 0.95).verdict[0]
    assert "is within the noise of its teacher's accuracy" in same
    assert 'points over 400 samples)' in same


def test_a_loss_is_not_called_a_gain_and_one_seed_not_certain():
    assert 'Distillation lowered the student' in (said := with_accuracies(0.9, 0.5).verdict[1])
    assert 'one seed, so take it with caution' in said
    assert '400 samples' in said


def test_speed_within_the_noise_is_called_that():
    bench = BenchResults([row('teacher', p50=1e-3), row('kd-0', p50=0.95e-3, iqr=1e-4)])
    report = Report(evidence(bench=bench))
    assert 'not measurably faster or slower (CPU, 1 thread)' in report.verdict[0]
    assert any('no clear difference' in cell.note for line in report.models.rows for cell in line)


def test_a_ratio_of_the_same_rounds_counts_more_than_two_medians():
    paired = row('kd-0', p50=0.9e-3, iqr=1e-3, speed_up=SpeedUp('teacher', 1.3, 1.25, 1.4))
    speed = Speed(Report(evidence()).groups, BenchResults([row('teacher', p50=1e-3), paired]))
    timing = speed.timings[1]
    assert speed.speed_up(timing) == 1.3
    assert speed.is_clear(timing)


def test_a_slower_student_is_called_slower():
    bench = BenchResults([row('teacher', p50=1e-3), row('kd-0', p50=3e-3)])
    assert f'3.0{TIMES} slower' in Report(evidence(bench=bench)).verdict[0]


def test_timings_of_strangers_are_ignored_and_missing_ones_said(report):
    assert {one.group.name for one in report.speed.timings} == {'teacher', 'kd'}
    assert 'Not timed: alone.' in report.notes
    assert 'Of the 3 runs of kd, kd-0 was timed.' in report.notes


def test_timings_of_another_model_of_that_name_are_left_out():
    report = Report(evidence(bench=BenchResults([row('teacher'), row('kd-0', parameters=999)])))
    assert [one.group.name for one in report.speed.timings] == ['teacher']
    assert any('Timings of kd-0 are left out' in note for note in report.notes)


def test_a_backend_that_answers_otherwise_or_fails_is_marked(report):
    table = report.benchmark['CPU, 1 thread']
    by_name = {(line[0].text, line[2].text): line for line in table.rows}
    assert by_name['int8-dynamic', 'kd'][-1].wrong
    assert by_name['int8-dynamic', 'kd'][-1].text == '43.0'
    assert not by_name['onnxruntime', 'kd'][-1].wrong
    failed = by_name['int8-dynamic', 'teacher'][3]
    assert failed.text == 'failed: no int8 kernels here'
    assert failed.wrong
    for line in table.filled():
        assert len(line) == len(table.columns)


def test_what_a_backend_costs_in_accuracy_is_told_from_the_mean_of_all_seeds(report):
    evaluation = report.evidence.evaluation
    group = report.groups[2]
    mean = group.accuracy(evaluation).mean
    wrong = report.speed.find(group, Setting('cpu', 1, 'int8-dynamic', 'int8'))
    assert report.speed.accuracy(report.speed.find(group, EAGER), evaluation) == pytest.approx(mean)
    assert report.speed.accuracy(wrong, evaluation) == pytest.approx(mean - 0.5)


def test_training_cost_is_compared_with_the_student_alone(report):
    line = next(line for line in report.costs.rows if line[0].text == 'kd')
    assert [cell.text for cell in line] == ['kd', '40', '11.0 s', '99.0 ± 0.6']
    assert line[3].note == f'1.0{TIMES} as long per sample'


def test_the_nearest_student_alone_is_the_one_compared():
    labels = np.zeros(4, dtype=int)
    far = subject(ALONE, 0, labels, 1.0, name='far', settings=settings(0, ALONE, optimizer={'lr': 9.0}))
    near = subject(ALONE, 0, labels, 1.0, name='near')
    large = subject(ALONE, 0, labels, 1.0, name='large', settings={**settings(0, ALONE), 'model': {'name': 'VGG'}})
    kd = subject(DISTILLED, 0, labels, 1.0)
    groups = group([far, large, near, kd])
    assert counterpart(groups[-1], groups).name == 'near'
    assert counterpart(groups[-1], group([large, kd])) is None


def test_one_run_is_reported_without_comparisons():
    whole = evidence(seeds=(0,))
    one = dataclasses.replace(whole, models=whole.models[1:2])
    report = Report(one)
    assert report.verdict[0].startswith('No distilled student is among these runs')
    assert sorted(report.drawings) == ['calibration', 'curves']
    assert report.differences is None
    assert any('single model' in note for note in report.notes)
    assert any('Speed was not measured' in note for note in report.notes)


def test_without_answers_sizes_and_curves_remain():
    whole = evidence(bench=timings())
    nothing = dataclasses.replace(
        whole.evaluation, labels=np.zeros(0, dtype=int), classes=(), left_out='the models answer for tokens'
    )
    noted = {'metrics/eval/LanguagePerplexity': 3.0}
    models = tuple(dataclasses.replace(one, answers=None, metrics={**one.metrics, **noted}) for one in whole.models)
    report = Report(dataclasses.replace(whole, evaluation=nothing, models=models))
    assert {'curves', 'speedups'} <= set(report.drawings)
    assert not {'classes', 'calibration', 'confusions'} & set(report.drawings)
    assert any('the models answer for tokens' in note for note in report.notes)
    assert 'accuracy' not in [column.heading for column in report.models.columns]
    assert texts(report.models, 'language perplexity')[0] == '3.0000'


def test_the_accuracy_that_a_run_noted_stands_in_for_answers():
    whole = evidence(seeds=(0,))
    noted = {'metrics/eval/MulticlassAccuracy': 0.5}
    models = tuple(dataclasses.replace(one, answers=None, metrics=noted) for one in whole.models)
    nothing = dataclasses.replace(whole.evaluation, left_out='the models answer for tokens')
    report = Report(dataclasses.replace(whole, evaluation=nothing, models=models))
    assert texts(report.models, 'accuracy') == ['50.0', '50.0', '50.0']


def test_runs_without_a_record_are_reported():
    whole = evidence()
    models = tuple(dataclasses.replace(one, curves={}, metrics={}) for one in whole.models)
    report = Report(dataclasses.replace(whole, models=models, notes=('old runs',)))
    assert report.costs is None
    assert 'curves' not in report.drawings
    assert report.notes[0] == 'old runs'
    assert any('Training curves are left out' in note for note in report.notes)


@pytest.mark.parametrize('classes', [150, 12])
def test_many_classes_stay_readable(classes):
    report = Report(evidence(seeds=(0,), classes=classes, samples=1200))
    axes = report.drawings['classes'].figure.axes[0]
    assert len(axes.get_yticks()) == min(classes, 20)
    if classes > 20:
        assert '20 most changed of 150' in report.drawings['classes'].caption
        assert all(len(axes.patches) <= 14 for axes in report.drawings['confusions'].figure.axes)


def test_one_statistic_for_the_runs_of_a_row():
    rows = [row('teacher')] + [
        row(f'kd-{seed}', throughput=[Throughput(8, rate)], peak_memory_bytes=memory, energy_joules=joules)
        for seed, (rate, memory, joules) in enumerate([(300.0, 10e6, 1.0), (100.0, 10e6, 1.0), (200.0, 40e6, 4.0)])
    ]
    made = Report(evidence(bench=BenchResults(rows)))
    (table,) = made.benchmark.values()
    values = {cell.text for cell in table.rows[-1]}
    assert {'200', '20.0 MB', '2.00 J'} <= values  # the median, as the plot has it; the means, as training has them
    assert 'the mean' in made.about_timings
