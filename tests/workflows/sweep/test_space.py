from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd.presentation.settings import short_names
from composer_kd.workflows.sweep.space import Choice, Range, read_parameters


def drawn(parameter, n=60):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [parameter.suggest(study.ask()) for _ in range(n)]


def one(**spec):
    parameters, faults = read_parameters({'a.b': spec})
    assert not faults
    return parameters[0]


def fault(spec, key='a.b'):
    parameters, faults = read_parameters({key: spec})
    assert not parameters
    return '\n'.join(faults)


@pytest.mark.parametrize(
    ('spec', 'ends', 'kind'),
    [
        ({'min': 1, 'max': 5}, [1, 5], int),
        ({'min': 1.0, 'max': 5}, [1.0, 5.0], float),
        ({'distribution': 'uniform', 'min': 0, 'max': 1}, [0.0, 1.0], float),
        ({'distribution': 'log_uniform_values', 'min': 1e-5, 'max': 1}, [1e-5, 1.0], float),
        ({'distribution': 'log_uniform', 'min': -3, 'max': 0}, [math.exp(-3), 1.0], float),
        ({'distribution': 'q_uniform', 'min': 5, 'max': 33, 'q': 8}, [8, 32], int),
        ({'distribution': 'q_uniform', 'min': 0.1, 'max': 0.45, 'q': 0.1}, [0.1, 0.4], float),
        ({'distribution': 'q_log_uniform_values', 'min': 20, 'max': 500, 'q': 32}, [32, 480], int),
        ({'distribution': 'q_log_uniform', 'min': 0, 'max': 5}, [1, 148], int),
        ({'distribution': 'q_log_uniform', 'min': -30, 'max': 5}, [1, 148], int),
    ],
)
def test_what_is_drawn_lies_between_the_ends(spec, ends, kind):
    parameter = one(**spec)
    assert parameter.representatives() == pytest.approx(ends)
    values = drawn(parameter)
    assert all(type(value) is kind and ends[0] - 1e-9 <= value <= ends[1] + 1e-9 for value in values)
    if 'q' in spec:
        assert all(value == pytest.approx(round(value / spec['q']) * spec['q']) for value in values)
    assert len(set(values)) > 2


def test_logarithmic_draws_are_even_in_the_logarithm():
    values = drawn(one(distribution='log_uniform_values', min=1e-4, max=1.0), 400)
    assert 0.4 < sum(value < 1e-2 for value in values) / 400 < 0.6


def test_choices_may_be_anything():
    values = [{'name': 'SGD', 'momentum': 0.9}, [1, 2], None, True, 'text', 3]
    parameter = one(values=values)
    assert {repr(value) for value in drawn(parameter, 100)} == {repr(value) for value in values}
    assert one(value=4).representatives() == [4] == drawn(one(value=4), 1)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 7))
def test_a_grid_has_all_multiples(low, width, step):
    high = low + width
    multiples = [value for value in range(low, high + 1) if value % step == 0]
    if multiples:
        assert Range('a', low, high, step=step).grid() == multiples


def test_only_steps_and_choices_make_a_grid():
    assert Range('a', 0.0, 1.0).grid() is None
    assert Range('a', 0, 10**9, step=1).grid() is None
    assert Choice('a', ({'b': 1}, 2)).grid() == ['{"b": 1}', 2]


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ({'distribution': 'log_unform', 'min': 1, 'max': 2}, "unknown 'log_unform'; did you mean 'log_uniform'"),
        ({'distribution': 'normal', 'mu': 1}, "only W&B's server draws from 'normal'"),
        ({'min': 1, 'max': '1e-4'}, "a.b.max: expected a number, got '1e-4'; in YAML write 1.0e-04"),
        ({'min': 3, 'max': 3}, 'a.b.max: expected more than min, 3; got 3'),
        ({'distribution': 'log_uniform_values', 'min': 0.0, 'max': 1.0}, 'min: expected a positive number'),
        ({'min': 1}, 'a.b.max: required for uniform, and missing'),
        ({'min': 1, 'max': 2, 'maxi': 3}, "a.b.maxi: unknown key of int_uniform; did you mean 'max'"),
        ({'values': []}, 'expected a list of one value or more'),
        ({'values': 3}, 'expected a list of one value or more'),
        ({'values': [1, 2, 1]}, 'a value is there twice'),
        ({'values': [1], 'probabilities': [1]}, 'unknown key of categorical'),
        ({'distribution': 'q_uniform', 'min': 1, 'max': 2, 'q': 5}, 'no multiple of 5 lies between 1 and 2'),
        ({'distribution': 'q_uniform', 'min': 1, 'max': 2, 'q': 0}, 'q: expected a positive number'),
        ({'distribution': 'int_uniform', 'min': 1.5, 'max': 2}, 'expected integers'),
        ({'distribution': 'log_uniform', 'min': 0, 'max': 1000}, 'expected an exponent of e for log_uniform, got 1000'),
        ({'parameters': {'c': {'value': 1}}}, 'write dotted keys instead'),
        (3, 'expected {value: ...}'),
    ],
)
def test_what_is_no_parameter_is_refused(spec, message):
    assert message in fault(spec)


def test_a_server_may_draw_otherwise():
    parameters, faults = read_parameters({'a': {'distribution': 'normal'}, 'b': {'value': 1}}, offline=False)
    assert not faults
    assert [parameter.key for parameter in parameters] == ['b']


def test_a_key_comes_before_those_below_it():
    parameters, _ = read_parameters({'optimizer.lr': {'value': 1}, 'optimizer': {'value': {'name': 'SGD'}}})
    assert [parameter.key for parameter in parameters] == ['optimizer', 'optimizer.lr']


def test_names_are_short_and_different():
    keys = ['a.x.lr', 'b.y.lr', 'c.name', 'c.0.name']
    assert short_names(keys) == {'a.x.lr': 'x.lr', 'b.y.lr': 'y.lr', 'c.name': 'c.name', 'c.0.name': 'c.0.name'}
