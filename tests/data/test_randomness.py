from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Subset
from torchvision.transforms import v2

from composer_kd.data import HeldOut, Indexed, SeededViews, digits
from composer_kd.data.randomness import generators_in, is_random, spread_over
from tests.data.test_views import SETS, Coin, Pictures, by_numpy


@pytest.mark.parametrize('name', SETS)
def test_random_transforms_are_found_and_views_are_not_random(name):
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    found = is_random(SETS[name]())
    assert found
    assert str(found).startswith(f'{len(found.differing)} of 12 samples differ when they are drawn twice, the first')
    views = SeededViews(SETS[name](), views=4)
    assert not is_random(views)
    assert not is_random(Indexed(views))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == (states[0], states[2])
    assert torch.equal(torch.get_rng_state(), states[1])


def test_generators_of_their_own_are_random_and_fixed_transforms_are_not():
    assert is_random(Pictures(Coin(random.Random(0))))
    fixed = Pictures(v2.Compose([v2.CenterCrop(8), v2.ToImage()]))
    for dataset in (fixed, Subset(fixed, [1, 2]), HeldOut(fixed, 0.25), digits(), [{'input_ids': [1, 2]}]):
        assert not is_random(dataset)


def test_a_rare_transform_is_found_among_many_samples():
    rare = Pictures(v2.RandomApply([by_numpy], p=0.2), n=100)
    assert is_random(rare, samples=100)


@pytest.mark.parametrize(('length', 'count'), [(1, 16), (16, 16), (17, 16), (1000, 1), (5, 2)])
def test_the_samples_looked_at_are_spread(length, count):
    chosen = spread_over(length, count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(length, count)
    assert 0 <= chosen[0] <= chosen[-1] < length


def test_generators_are_found_in_what_goes_round_in_circles():
    outer, inner = Coin(torch.Generator()), Coin(np.random.RandomState(0))
    outer.inner, inner.outer, inner.many = inner, outer, [random.Random()] * 1000
    found = list(generators_in({'steps': (outer, inner)}))
    assert found == ['steps.0.generator (torch._C.Generator)', 'steps.1.generator (numpy.random.mtrand.RandomState)']
