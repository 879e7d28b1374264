"""Each number against an independent reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix
from torchmetrics.functional.classification import multiclass_calibration_error

from composer_kd.reports.differences import differing
from composer_kd.reports.evidence import Curve
from composer_kd.reports.figures.curves import mean_curve, thinned
from composer_kd.reports.metrics import (
    BINS,
    agreement,
    calibration,
    class_accuracies,
    confusion,
    most_changed,
    pareto_front,
)
from composer_kd.reports.statistics import Estimate, difference_of_answers, difference_of_runs

LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_the_calibration_error_is_that_of_torchmetrics(seed, classes):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(scale=3, size=(80, classes)))
    labels = torch.from_numpy(rng.integers(0, classes, 80))
    confidence, predicted = logits.softmax(1).max(1)
    expected = multiclass_calibration_error(logits.softmax(1), labels, classes, n_bins=BINS, norm='l1')
    found = calibration(confidence.numpy(), (predicted == labels).numpy())
    assert found.error == pytest.approx(expected.item(), abs=1e-6)
    assert found.counts.sum() == 80


def test_certain_and_hopeless_answers_fall_into_the_outer_bins():
    found = calibration([1.0, 1.0, 0.0], [True, False, False], bins=4)
    assert found.counts.tolist() == [1, 0, 0, 2]
    assert found.error == pytest.approx((2 * 0.5 + 0) / 3)
    assert np.isnan(found.accuracy[1])
    assert np.isnan(calibration([], []).error)


@given(LABELS)
def test_confusion_and_class_accuracies_are_those_of_sklearn(pairs):
    labels, predicted = (np.array(column) for column in zip(*pairs))
    counts = confusion_matrix(labels, predicted, labels=range(5))
    with np.errstate(invalid='ignore'):
        expected = counts / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(confusion(labels, predicted, 5), expected)
    np.testing.assert_allclose(class_accuracies(labels, predicted, 5), np.diag(expected))


def test_agreement_is_an_accuracy_with_another_model_as_the_truth():
    rng = np.random.default_rng(0)
    mine, *others = rng.integers(0, 3, (3, 50))
    assert agreement(mine, others[:1]) == accuracy_score(others[0], mine)
    assert agreement(mine, others) == pytest.approx(np.mean([accuracy_score(one, mine) for one in others]))
    assert agreement(mine, [mine]) == cohen_kappa_score(mine, mine) == 1.0


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14))
def test_the_pareto_front_is_what_nothing_dominates(points):
    def dominated(i):
        cost, value = points[i]
        return any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)

    front = pareto_front([cost for cost, _ in points], [value for _, value in points])
    assert sorted(front) == [i for i in range(len(points)) if not dominated(i)]
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


def test_the_most_changed_are_the_largest_either_way():
    change = np.array([0.0, -0.5, 0.2, np.nan, 0.5])
    assert most_changed(change, 3).tolist() == [1, 4, 2]
    assert sorted(most_changed(change, 5)) == [0, 1, 2, 3, 4]
    assert most_changed(np.zeros(9), 3).tolist() == []


def test_the_standard_error_is_that_of_scipy():
    values = [0.91, 0.93, 0.87, 0.9]
    found = Estimate.of(values)
    assert (found.mean, found.error) == (pytest.approx(np.mean(values)), pytest.approx(stats.sem(values)))
    assert Estimate.of([0.5]) == Estimate(0.5, None, 1)


def test_runs_with_the_same_seeds_are_compared_in_pairs():
    better, other = {1: 0.91, 2: 0.95, 3: 0.93}, {3: 0.85, 1: 0.8, 2: 0.84}
    found = difference_of_runs(better, other)
    expected = stats.ttest_rel([0.91, 0.95, 0.93], [0.8, 0.84, 0.85]).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.is_clear
    assert found.over == '3 seeds, in pairs'


def test_runs_with_other_seeds_are_compared_as_groups():
    better, other = {1: 0.91, 2: 0.95, 3: 0.93}, {4: 0.85, 5: 0.99}
    found = difference_of_runs(better, other)
    expected = stats.ttest_ind(list(better.values()), list(other.values()), equal_var=False).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert not found.is_clear


def test_one_run_is_not_compared_over_seeds():
    assert difference_of_runs({1: 0.9}, {1: 0.8}) is None
    same = difference_of_runs({1: 0.9, 2: 0.9}, {3: 0.8, 4: 0.8})
    assert (same.low, same.high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_answers_are_compared_on_the_same_samples():
    rng = np.random.default_rng(0)
    better, other = (rng.random((2, 200)) < [[0.9], [0.8]]).astype(float)
    found = difference_of_answers(better, other)
    expected = stats.ttest_rel(better, other).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert difference_of_answers(np.ones(1), np.ones(1)) is None


def test_only_settings_that_differ_are_listed():
    first = {'model': {'name': 'a', 'width': 2}, 'seed': 1, 'variables': {'x': 1}, 'loggers': {}, 'matches': [{'w': 1}]}
    second = {'model': {'name': 'a'}, 'seed': 2, 'load_path': None, 'matches': [{'w': 2}, 'b'], 'on': True}
    assert differing([[first, {**first, 'seed': 3}], [second]]) == [
        ('model.width', ['2', '(nothing)']),
        ('seed', ['1, 3', '2']),
        ('matches.0.w', ['1', '2']),
        ('matches.1', ['(nothing)', 'b']),
        ('on', ['(nothing)', 'true']),
    ]


@given(st.integers(1, 400), st.integers(1, 50))
def test_a_thinned_curve_keeps_the_mean(length, points):
    values = np.random.default_rng(length).normal(size=length)
    found = thinned(Curve(np.arange(length), values), length - 1, points)
    assert len(found.values) == min(points, length)
    assert np.all(np.diff(found.batches) > 0)
    assert found.values.min() >= values.min() - 1e-9
    if length % points == 0:
        assert found.values.mean() == pytest.approx(values.mean())


def test_a_diverged_loss_leaves_a_gap():
    found = thinned(Curve(np.arange(4), np.array([1.0, np.nan, np.inf, 3.0])), 3, 4)
    assert found.batches.tolist() == [0, 3]
    assert mean_curve([found, Curve(np.array([3.0]), np.array([5.0]))]).values.tolist() == [4.0]
