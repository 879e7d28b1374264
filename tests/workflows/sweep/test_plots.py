"""What the plots of a sweep say."""

from __future__ import annotations

import types

import pytest
from matplotlib.colors import to_rgb

from composer_kd.workflows.sweep.plots import draw_parallel_coordinates
from composer_kd.workflows.sweep.space import read_parameters
from composer_kd.workflows.sweep.study import Record


def marks(**spec):
    """The values that are written along the axis of one parameter, from below, and how far up each stands."""
    (parameter,), faults = read_parameters({'x': spec})
    assert not faults
    values = parameter.representatives()
    records = [Record(number, 'complete', {'x': value}, 0.5 + number) for number, value in enumerate(values)]
    sweep = types.SimpleNamespace(name='a', parameters=(parameter,), metric='accuracy', sign=1)
    axes, colours = draw_parallel_coordinates(records, sweep).axes
    assert colours.get_ylabel() == 'accuracy'
    return {text.get_text(): text.xy[1] for text in axes.texts if text.xy[0] == 0}


@pytest.mark.parametrize(
    ('low', 'high', 'expected'),
    [
        (1, 2, ['1', '2']),
        (1, 4, ['1', '2', '3', '4']),
        (1, 5, ['1', '2', '3', '4', '5']),
        (0, 1000, ['0', '250', '500', '750', '1000']),
        (1024, 5120, ['1024', '2048', '3072', '4096', '5120']),
    ],
)
def test_an_axis_of_integers_has_integers_on_it(low, high, expected):
    assert list(marks(min=low, max=high)) == expected


@pytest.mark.parametrize(('low', 'high'), [(1, 6), (3, 20), (16, 2047)])
def test_integers_stand_where_they_belong(low, high):
    found = marks(min=low, max=high)
    assert {low, high} <= {int(text) for text in found}
    for text, height in found.items():
        assert height == pytest.approx((int(text) - low) / (high - low))


def test_steps_are_what_is_marked():
    assert list(marks(distribution='q_uniform', min=0.0, max=1.0, q=0.5)) == ['0', '0.5', '1']
    assert list(marks(distribution='q_uniform', min=16, max=64, q=16)) == ['16', '32', '48', '64']


def test_integers_on_a_logarithmic_axis_are_written_in_full():
    assert list(marks(distribution='q_log_uniform_values', min=2, max=2048)) == ['2', '10', '100', '1000', '2048']


def test_other_axes_have_fractions():
    assert list(marks(min=0.0, max=1.0)) == ['0', '0.25', '0.5', '0.75', '1']
    assert list(marks(distribution='log_uniform_values', min=1e-3, max=0.3)) == ['0.001', '0.01', '0.1', '0.3']


def test_the_axis_of_the_metric_has_round_numbers_and_lines_can_be_seen_on_white():
    (parameter,), _ = read_parameters({'x': {'min': 0.0, 'max': 1.0}})
    records = [Record(number, 'complete', {'x': number / 4}, 0.6123 + number / 13) for number in range(5)]
    sweep = types.SimpleNamespace(name='a', parameters=(parameter,), metric='accuracy', sign=1)
    axes, _ = draw_parallel_coordinates(records, sweep).axes
    metric = [text.get_text() for text in axes.texts if text.xy[0] == 1]
    assert 2 <= len(metric) <= 6
    assert all(len(text) <= 5 for text in metric)
    whole = [line for line in axes.get_lines() if len(line.get_xdata()) == 2 and line.get_linewidth() > 1.2]
    for line in whole:
        red, green, blue = (part**2.2 for part in to_rgb(line.get_color()))
        assert 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) > 2
