"""Numbers as people read them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer_kd.presentation.units import bytes_text, cost_text, count_text, number_text, seconds_text

FACTORS = {'n': 1e-9, 'µ': 1e-6, 'm': 1e-3, '': 1.0, 'k': 1e3, 'M': 1e6, 'G': 1e9, 'T': 1e12}


def read(text, unit):
    """The value that a text stands for."""
    number, _, prefixed = text.partition(' ')
    return float(number.replace(',', '')) * FACTORS[prefixed.removesuffix(unit)]


@given(st.floats(1e-9, 59.9))
def test_a_short_time_is_written_with_three_digits(value):
    text = seconds_text(value)
    assert read(text, 's') == pytest.approx(value, rel=5.01e-3)
    number = text.split()[0]
    assert len(number.replace('.', '')) == 3
    assert 1 <= float(number) < 1000


@given(st.floats(1e3, 1e15))
def test_sizes_and_counts_are_in_decimal_units(value):
    for text, unit in ((bytes_text(value), 'B'), (count_text(value), ''), (count_text(value, 'FLOP'), 'FLOP')):
        assert read(text, unit) == pytest.approx(value, rel=5.01e-3)
        assert text.endswith(unit)


@given(st.integers(60, 10**6))
def test_a_long_time_is_written_as_a_clock_would(value):
    words = seconds_text(value).split()
    seconds = sum(int(number) * {'h': 3600, 'min': 60, 's': 1}[unit] for number, unit in zip(words[::2], words[1::2]))
    assert seconds == (value if value < 3600 else pytest.approx(value, abs=30))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        (seconds_text(0.000349), '349 µs'),
        (seconds_text(0.0009996), '1.00 ms'),
        (seconds_text(59.9996), '1 min 00 s'),
        (seconds_text(3599.7), '1 h 00 min'),
        (seconds_text(0.0), '0 s'),
        (seconds_text(math.nan), 'nan s'),
        (bytes_text(999_600), '1.00 MB'),
        (bytes_text(3), '3 B'),
        (count_text(99.96), '100'),
        (count_text(np.int64(7)), '7'),
        (number_text(21_690), '21,690'),
        (number_text(4.71e-7), '4.71e-07'),
        (number_text(-0.12345), '-0.123'),
        (number_text(None), ''),
    ],
)
def test_where_a_unit_ends(text, expected):
    assert text == expected


def test_costs_have_the_unit_of_their_name():
    assert cost_text('cost/train_seconds', 0.01234) == '12.3 ms'
    assert cost_text('cost/train_seconds', 59.9996) == '1 min 00 s'
    assert cost_text('cost/eval_seconds', 754.2) == '12 min 34 s'
    assert cost_text('cost/samples_per_second', 12345.6) == '12,346 /s'
    assert cost_text('cost/energy_joules', 12345.0) == '12.3 kJ'
    assert cost_text('cost/memory_growth_bytes', 0) == '0 B'
    assert cost_text('cost/of_another_kind', 0.5) == '0.5000'
