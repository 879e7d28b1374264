"""Paired differences: their errors, and how often the rule is wrong."""

import itertools

import numpy as np
import pytest

from benchmarks.paired import compare


def drawn(seed, methods=2, seeds=3, samples=400, better=0.0):
    """Which samples are right: some are harder than others, some seeds are luckier, and 'a' may be better."""
    chance = np.random.RandomState(seed)
    hard = chance.randn(samples)
    gains = [better, *[0.0] * (methods - 1)]
    right = {}
    for name, gain in zip('abcdef', gains):
        luck = 0.1 * chance.randn(seeds, 1)
        right[name] = 1.0 + gain + hard + luck + chance.randn(seeds, samples) > 0
    return right


def test_the_error_of_two_methods_is_that_of_paired_samples_and_of_paired_seeds():
    right = drawn(0)
    (found,) = compare(right, [('a', 'b')], range(400), ['a', 'b'])
    difference = right['a'].astype(float) - right['b']
    samples, seeds = difference.mean(0), difference.mean(1)
    assert found.mean == pytest.approx(difference.mean())
    assert found.error**2 == pytest.approx(samples.var(ddof=1) / 400 + seeds.var(ddof=1) / 3)


def test_samples_of_a_group_count_as_one():
    right = drawn(1)
    twice = {name: np.repeat(value, 2, axis=1) for name, value in right.items()}
    (once,) = compare(right, [('a', 'b')], range(400), ['a', 'b'])
    (grouped,) = compare(twice, [('a', 'b')], np.repeat(np.arange(400), 2).tolist(), ['a', 'b'])
    (alone,) = compare(twice, [('a', 'b')], range(800), ['a', 'b'])
    assert (grouped.mean, grouped.error) == pytest.approx((once.mean, once.error))
    assert alone.error < once.error


def test_where_nothing_differs_hardly_anything_is_said():
    pairs = list(itertools.combinations('abcdef', 2))
    wrong = sum(
        any(one.is_larger for one in compare(drawn(seed, methods=6), pairs, range(400), 'abcdef')) for seed in range(60)
    )
    assert wrong <= 6


def test_a_large_difference_is_found_among_many():
    found = compare(drawn(2, methods=6, better=1.0), list(itertools.combinations('abcdef', 2)), range(400), 'abcdef')
    assert {(one.first, one.second) for one in found if one.is_larger} == {('a', other) for other in 'bcdef'}


def test_a_single_seed_is_not_judged():
    found = compare(drawn(3, seeds=1, better=3.0), [('a', 'b')], range(400), ['a', 'b'])
    assert np.isnan(found[0].error)
    assert not found[0].is_larger


def test_equal_answers_do_not_differ():
    right = drawn(4)
    right['c'] = right['a']
    (found,) = compare(right, [('a', 'c')], range(400), ['a', 'b'])
    assert found.mean == 0
    assert not found.is_larger
