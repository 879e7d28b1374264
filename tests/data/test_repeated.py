from __future__ import annotations

from collections import Counter

import pytest
import torch
from composer.models import ComposerClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from composer_kd.data import RepeatingSampler
from composer_kd.errors import ConfigError
from tests.helpers import EventSpy, mlp, pairs, train


def epoch(number, *arguments, rank=0, **options):
    sampler = RepeatingSampler(*arguments, **{'num_replicas': 1, 'rank': rank, **options})
    sampler.set_epoch(number)
    return list(sampler)


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(1, 40),
    samples=st.integers(1, 100),
    world=st.integers(1, 4),
    epochs=st.integers(1, 5),
    seed=st.integers(0, 9),
    shuffle=st.booleans(),
)
def test_any_number_of_epochs_on_any_number_of_ranks_are_whole_passes(length, samples, world, epochs, seed, shuffle):
    shared = {'num_replicas': world, 'seed': seed, 'shuffle': shuffle}
    gone_through = []
    for number in range(epochs):
        ranks = [epoch(number, range(length), samples, rank=rank, **shared) for rank in range(world)]
        assert {len(rank) for rank in ranks} == {-(-samples // world)}  # as many steps for all
        together = [index for step in zip(*ranks) for index in step]
        assert together[:samples] == epoch(number, range(length), samples, seed=seed, shuffle=shuffle)
        gone_through += together[:samples]
    for start in range(0, len(gone_through) - length + 1, length):
        assert sorted(gone_through[start : start + length]) == list(range(length))
    counts = Counter(gone_through)
    assert max(counts.values()) - min(counts[index] for index in range(length)) <= 1


def test_samples_that_cannot_be_shared_out_are_left_out_or_filled_up():
    kept = [epoch(0, range(5), 7, rank=rank, num_replicas=2, shuffle=False) for rank in range(2)]
    assert kept == [[0, 2, 4, 1], [1, 3, 0, 2]]
    dropped = [epoch(0, range(5), 7, rank=rank, num_replicas=2, shuffle=False, drop_last=True) for rank in range(2)]
    assert dropped == [[0, 2, 4], [1, 3, 0]]


def test_every_pass_and_every_seed_has_an_order_of_its_own():
    orders = [epoch(number, range(50), 50, seed=seed) for number in range(3) for seed in range(3)]
    assert len({tuple(order) for order in orders}) == 9
    assert epoch(2, range(50), 50, seed=1) == epoch(2, range(50), 50, seed=1)


@pytest.mark.parametrize('samples', [0, -3, 2.5, True, None])
def test_an_epoch_of_no_samples_is_refused(samples):
    with pytest.raises(ConfigError, match='samples: expected a positive number'):
        RepeatingSampler(range(3), samples, num_replicas=1, rank=0)
    with pytest.raises(ConfigError, match='at least one sample'):
        RepeatingSampler([], 3, num_replicas=1, rank=0)


def test_composer_moves_it_on_from_epoch_to_epoch():
    x, y = pairs(10)
    data = TensorDataset(x, y)
    sampler = RepeatingSampler(data, 25, num_replicas=1, rank=0, seed=4)
    assert isinstance(sampler, DistributedSampler)  # what Composer asks for where there are several processes
    seen = []
    spy = EventSpy('after_dataloader', lambda state: seen.extend(map(tuple, state.batch[0].tolist())))
    model = ComposerClassifier(mlp(), num_classes=4)
    run = train(model, DataLoader(data, batch_size=8, sampler=sampler), callbacks=[spy], max_duration='4ep')
    assert (int(run.state.timestamp.batch), int(run.state.timestamp.sample)) == (16, 100)
    assert set(Counter(seen).values()) == {10}
    assert torch.equal(torch.tensor(seen[:25]), x[epoch(0, data, 25, seed=4)])
    assert torch.equal(torch.tensor(seen[75:]), x[epoch(3, data, 25, seed=4)])
