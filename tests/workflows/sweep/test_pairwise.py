from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd.workflows.sweep.pairwise import covering_rows, shrink


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=7))
def test_any_two_values_meet(choices):
    rows = covering_rows(choices)
    assert rows[0] == (0,) * len(choices)
    assert len(set(rows)) == len(rows) <= max(1, len(choices) * (len(choices) - 1) // 2) * max(choices) ** 2
    for (a, count_a), (b, count_b) in itertools.combinations(enumerate(choices), 2):
        assert {(row[a], row[b]) for row in rows} == set(itertools.product(range(count_a), range(count_b)))
    for parameter, count in enumerate(choices):
        assert {row[parameter] for row in rows} == set(range(count))


@given(st.sets(st.sampled_from('abcdef')))
def test_shrinking_finds_the_cause(cause):
    assignment, default = dict.fromkeys('abcdef', 1), dict.fromkeys('abcdef', 0)
    found = shrink(assignment, default, lambda values: all(values[key] for key in cause))
    assert found == dict.fromkeys(cause, 1)
