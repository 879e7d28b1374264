import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from composer_kd import CheckpointNotFoundError, ConfigError, Distillation, FrozenTeacher, TeacherError
from composer_kd.teachers import TeacherPool
from tests.helpers import mlp, mse, pairs, student


def teachers(n=4):
    return [mlp(seed=seed) for seed in range(n)]


def test_logits_are_averaged():
    x, y = pairs(5)
    expected = torch.stack([module(x) for module in teachers(3)]).mean(0)
    torch.testing.assert_close(TeacherPool(teachers(3))((x, y)), expected)


def test_weights_are_relative_to_those_drawn():
    x, y = pairs(5)
    a, b, c = (module(x) for module in teachers(3))
    pool = TeacherPool(teachers(3), weights=[1, 2, 5])
    torch.testing.assert_close(pool((x, y)), (a + 2 * b + 5 * c) / 8)
    torch.testing.assert_close(pool((x, y), [0, 1]), (a + 2 * b) / 3)
    torch.testing.assert_close(pool((x, y), [2]), c)


def test_one_teacher_is_not_copied_or_averaged():
    out = torch.randn(5, 4)
    pool = TeacherPool(FrozenTeacher(mlp(), forward=lambda model, batch: out))
    assert pool(pairs(5)) is out


def test_takes_every_form(tmp_path):
    path = str(tmp_path / 'w.pt')
    torch.save(mlp(seed=3).state_dict(), path)
    for given_, count in (
        (mlp(), 1),
        (student(), 1),
        (FrozenTeacher(mlp()), 1),
        (teachers(2), 2),
        (nn.ModuleList(teachers(2)), 2),
        (tuple(teachers(3)), 3),
        ({path: mlp()}, 1),
    ):
        assert len(TeacherPool(given_).teachers) == count
    x, y = pairs(3)
    torch.testing.assert_close(TeacherPool({path: mlp()})((x, y)), mlp(seed=3)(x))
    with pytest.raises(CheckpointNotFoundError):
        TeacherPool({str(tmp_path / 'none.pt'): mlp()})


def test_checkpoints_for_teachers_with_adapters(tmp_path):
    path = str(tmp_path / 'w.pt')
    torch.save(mlp(seed=3).state_dict(), path)
    x, y = pairs(3)
    pool = TeacherPool({path: FrozenTeacher(mlp(), input_adapter=lambda x: 2 * x)})
    torch.testing.assert_close(pool((x, y)), mlp(seed=3)(2 * x))


def test_two_checkpoints_for_one_module(tmp_path):
    module = mlp()
    with pytest.raises(ConfigError, match='Two checkpoints are given for one module'):
        TeacherPool({'a.pt': module, 'b.pt': module})
    with pytest.raises(ConfigError, match='Two checkpoints are given for one module'):
        TeacherPool({'a.pt': FrozenTeacher(module), 'b.pt': FrozenTeacher(module)})


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 6), k=st.integers(1, 6), seed=st.integers(0, 2**32 - 1), batch=st.integers(0, 10**6))
def test_a_draw_follows_from_seed_and_batch_alone(n, k, seed, batch):
    k = min(k, n)
    first, second = TeacherPool(teachers(n), k), TeacherPool(teachers(n), k)
    first.draw(seed, batch + 1)
    random.random()
    drawn = first.draw(seed, batch)
    assert drawn == second.draw(seed, batch)
    assert len(set(drawn)) == k
    assert set(drawn) <= set(range(n))


def test_draws_differ_and_are_fair():
    pool = TeacherPool(teachers(4), 2)
    counts = np.zeros(4)
    draws = [pool.draw(17, batch) for batch in range(2000)]
    for drawn in draws:
        counts[list(drawn)] += 1
    assert len(set(draws)) == 6
    assert abs(counts / 2000 - 0.5).max() < 0.05
    assert draws != [pool.draw(18, batch) for batch in range(2000)]


def test_a_draw_touches_no_global_random_state():
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    TeacherPool(teachers(4), 2).draw(17, 3)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize('nothing', [None, [], (), {}, nn.ModuleList()])
def test_no_teachers(nothing):
    with pytest.raises(ConfigError, match=r"No teachers.*teacher='student'"):
        Distillation(nothing, mse)
    assert TeacherPool(nothing).draw(17, 3) == ()


@pytest.mark.parametrize('n', [0, -1, 5, 2.0, True, '2'])
def test_number_to_sample_out_of_range(n):
    with pytest.raises(
        ConfigError, match=r'n_teachers_to_sample must be an int from 1 to the number of teachers \(4\)'
    ):
        TeacherPool(teachers(4), n)


@pytest.mark.parametrize(
    'weights', [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float('nan')], [1.0, float('inf')], ['a', 'b'], [True, True], 1.0]
)
def test_bad_weights(weights):
    with pytest.raises(ConfigError, match='teacher_weights must be 2 positive finite numbers'):
        TeacherPool(teachers(2), weights=weights)


@pytest.mark.parametrize('given_', ['runs/teacher.pt', 3, {3: mlp()}, ['resnet18']])
def test_refuses_other_things(given_):
    with pytest.raises(TeacherError):
        TeacherPool(given_)


def test_teachers_of_different_shapes():
    pool = TeacherPool([FrozenTeacher(mlp(), name='small'), FrozenTeacher(mlp(classes=7), name='large')])
    with pytest.raises(TeacherError, match=r"'small' and 'large' answer in different shapes: \(3, 4\) and \(3, 7\)"):
        pool(pairs(3))
