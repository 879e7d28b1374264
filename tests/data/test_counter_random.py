from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd.data.counter_random import sample_seeds, small_integers, uniforms

MASK = 2**64 - 1


def mixed(x):
    """SplitMix64's finaliser in Python's integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def stepped(x, count):
    return mixed((x + count * 0x9E3779B97F4A7C15) & MASK)


def test_splitmix_gives_the_published_numbers():
    # the first numbers of SplitMix64 for the seed 1234567, as other implementations list them
    first = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [stepped(1234567, count) for count in (1, 2, 3)] == first
    draws = uniforms(np.array([1234567], np.uint64), 3)
    assert draws.tolist() == [[(number >> 11) / 2**53 for number in first]]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**63), view=st.integers(0, 2**40), samples=st.lists(st.integers(0, 2**62), max_size=4))
def test_seeds_are_those_of_python_integers(seed, view, samples):
    expected = [stepped(stepped(stepped(0, seed + 1), view + 1), sample + 1) for sample in samples]
    assert sample_seeds(seed, view, samples).tolist() == expected


def test_no_two_of_a_million_samples_have_one_seed():
    seeds = np.concatenate([sample_seeds(seed, view, np.arange(10**5)) for seed in (0, 1) for view in range(5)])
    assert len(np.unique(seeds)) == 10**6


def test_numbers_are_uniform_and_uncorrelated_between_neighbours():
    draws = uniforms(sample_seeds(3, 1, np.arange(20000)), 4)
    columns = np.concatenate([draws, np.roll(draws, 1, axis=0), uniforms(sample_seeds(3, 2, np.arange(20000)), 4)], 1)
    assert np.abs(columns.mean(0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(columns.T) - np.eye(12)).max() < 0.03
    counts = np.histogram(draws, bins=16, range=(0, 1))[0]
    assert np.abs(counts / counts.mean() - 1).max() < 0.06


@settings(max_examples=100, deadline=None)
@given(seeds=st.lists(st.integers(0, MASK), max_size=5), bounds=st.lists(st.integers(1, 200), min_size=1, max_size=4))
def test_small_integers_are_shares_of_the_bits(seeds, bounds):
    width = min(32, 64 // len(bounds))
    expected = [[((s >> i * width) % 2**width * n) >> width for s in seeds] for i, n in enumerate(bounds)]
    assert small_integers(np.array(seeds, np.uint64), bounds).tolist() == expected
    assert all(0 <= number < n for row, n in zip(expected, bounds) for number in row)


def test_crops_and_flips_are_uniform_and_independent():
    top, left, side = small_integers(sample_seeds(0, 0, np.arange(162000)), (9, 9, 2))
    counts = np.bincount((top * 9 + left) * 2 + side, minlength=162)
    assert abs(((counts - 1000) ** 2 / 1000).sum() - 161) < 5 * np.sqrt(2 * 161)  # chi-squared
