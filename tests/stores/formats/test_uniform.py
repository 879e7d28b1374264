"""Uniform numbers by position: the same in any batch, and uniform."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from composer_kd.stores.formats.uniform import uniform


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**62), min_size=1, max_size=8), st.integers(1, 5))
def test_a_row_is_the_same_in_any_batch(seed, rows, draws):
    whole = uniform(seed, np.array(rows), draws + 3)
    assert ((whole >= 0) & (whole < 1)).all()
    for place, row in enumerate(rows):
        assert np.array_equal(uniform(seed, np.array([row]), draws)[0], whole[place, :draws])


def test_numbers_are_uniform_and_independent_of_rows_draws_and_seeds():
    one, other = uniform(0, np.arange(20_000), 4), uniform(1, np.arange(20_000), 4)
    tokens = uniform(0, np.arange(20_000) << 24, 4)
    for numbers in (one, other, tokens):
        assert stats.kstest(numbers.ravel(), 'uniform').pvalue > 1e-3
    pairs = [(one[:, 0], one[:, 1]), (one[:-1, 0], one[1:, 0]), (one[:, 0], other[:, 0]), (one[:, 0], tokens[:, 0])]
    for x, y in pairs:
        assert abs(np.corrcoef(x, y)[0, 1]) < 5 / np.sqrt(len(x))
