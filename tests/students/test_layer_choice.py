from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer_kd import ConfigError
from composer_kd.students.layer_choice import chosen_layers, most_important


@pytest.mark.parametrize(
    ('strategy', 'expected'),
    [
        ('bottom', [0, 1, 2, 3, 4, 5]),
        ('top', [6, 7, 8, 9, 10, 11]),
        ('even', [0, 2, 4, 6, 8, 10]),
        ('odd', [1, 3, 5, 7, 9, 11]),
        ('spaced', [0, 2, 4, 7, 9, 11]),  # those that DistilBERT starts from
    ],
)
def test_twelve_to_six(strategy, expected):
    assert chosen_layers(strategy, 12, 6) == expected


@given(st.integers(1, 40).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth))))
def test_any_depth(sizes):
    depth, count = sizes
    for strategy in ('bottom', 'top', 'spaced'):
        chosen = chosen_layers(strategy, depth, count)
        assert len(chosen) == count
        assert chosen == sorted(set(chosen))
        assert set(chosen) <= set(range(depth))
    gaps = [after - before for before, after in pairwise(chosen)]
    assert not gaps or (chosen[0], chosen[-1]) == (0, depth - 1)
    assert all(abs(gap - (depth - 1) / (count - 1)) <= 1 for gap in gaps)
    assert sorted([*chosen_layers('even', depth), *(chosen_layers('odd', depth) if depth > 1 else [])]) == list(
        range(depth)
    )


def test_one_layer_has_none_at_an_odd_index():
    with pytest.raises(ConfigError, match='no layer with an odd index'):
        chosen_layers('odd', 1)


def test_of_equal_scores_the_first():
    assert most_important([1.0, 2.0, 1.0, 1.0], 3) == [0, 1, 2]
