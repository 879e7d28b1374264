from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from composer_kd.data import UNLABELLED, PartlyLabelled, digits
from composer_kd.data.partly_labelled import balanced_order, restrict
from composer_kd.errors import ConfigError


class Numbers(Dataset):
    """Sample i is the number i, of class i % 4; counts how often a sample is loaded."""

    def __init__(self, count=22):
        self.targets = [index % 4 for index in range(count)]
        self.loaded = 0

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        self.loaded += 1
        return torch.tensor(float(index)), self.targets[index]


@pytest.mark.parametrize('kept', [1, 4, 10, 11, 20])
def test_labels_are_spread_evenly_over_the_classes(kept):
    dataset = PartlyLabelled(Numbers(), n_labels=kept)
    counts = Counter(dataset.targets)
    assert counts.pop(UNLABELLED, 0) == 22 - kept
    assert sum(counts.values()) == kept
    assert max(counts.values()) - min(counts[label] for label in range(4)) <= 1


def test_a_class_that_runs_out_is_passed_over():
    counts = Counter([0, 0, 0, 0, 0, 0, 1, 1][index] for index in balanced_order([0] * 6 + [1] * 2, seed=3)[:6])
    assert counts == {0: 4, 1: 2}


def test_items_are_those_beneath_with_the_label_hidden():
    beneath = Numbers()
    dataset = PartlyLabelled(beneath, n_labels=8)
    assert UNLABELLED == -100
    for index in range(len(dataset)):
        x, y = dataset[index]
        assert x == index
        assert y == dataset.targets[index]
        assert y in (index % 4, -100)
    assert beneath.targets == [index % 4 for index in range(22)]


def test_unlabelled_samples_can_be_dropped():
    everyone = PartlyLabelled(Numbers(), n_labels=8, seed=5)
    labelled = PartlyLabelled(Numbers(), n_labels=8, seed=5, keep_unlabelled=False)
    assert len(labelled) == 8
    assert [int(x) for x, _ in labelled] == [i for i, y in enumerate(everyone.targets) if y != UNLABELLED]
    assert all(y == int(x) % 4 for x, y in labelled)


def test_the_choice_depends_on_the_seed_alone():
    torch.manual_seed(0)
    first = PartlyLabelled(Numbers(200), n_labels=40, seed=1).targets
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert PartlyLabelled(Numbers(200), n_labels=40, seed=1).targets == first
    assert torch.equal(torch.get_rng_state(), state)
    assert PartlyLabelled(Numbers(200), n_labels=40, seed=2).targets != first


def test_the_order_is_pinned():
    assert balanced_order([0, 0, 0, 0, 1, 1], seed=0) == [5, 2, 1, 4, 3, 0]


def test_more_labels_include_fewer():
    few = PartlyLabelled(Numbers(), n_labels=5).targets
    many = PartlyLabelled(Numbers(), n_labels=9).targets
    assert all(many[i] == y for i, y in enumerate(few) if y != UNLABELLED)


def test_a_subset_is_balanced_comes_first_and_ignores_the_seed():
    ten = PartlyLabelled(Numbers(), subset=10, seed=1)
    assert sorted(Counter(ten.targets).values()) == [2, 2, 3, 3]
    assert PartlyLabelled(Numbers(), subset=10, seed=2).indices == ten.indices
    assert PartlyLabelled(Numbers(), subset=6).indices == ten.indices[:6]
    both = PartlyLabelled(Numbers(), subset=10, n_labels=4)
    assert both.indices == ten.indices
    assert Counter(both.targets) == {UNLABELLED: 6, 0: 1, 1: 1, 2: 1, 3: 1}


def test_no_sample_is_loaded_to_learn_the_labels():
    beneath = Numbers()
    PartlyLabelled(beneath, n_labels=4, subset=12)
    assert beneath.loaded == 0


def test_a_data_set_without_targets_is_read_once():
    pairs = [(torch.zeros(1), label) for label in (0, 1, 2, 0, 1, 2)]
    dataset = PartlyLabelled(pairs, n_labels=3)
    assert dataset.num_classes == 3
    assert sorted(dataset.targets) == [UNLABELLED] * 3 + [0, 1, 2]


def test_all_labels_may_be_hidden():
    assert set(PartlyLabelled(Numbers(), n_labels=0).targets) == {UNLABELLED}


def test_batches_are_asked_for_at_once():
    asked = []

    class Batched(Numbers):
        def __getitems__(self, indices):
            asked.append(indices)
            return [(torch.tensor(float(index)), self.targets[index]) for index in indices]

    dataset = PartlyLabelled(Batched(), subset=10, n_labels=4)
    x, y = next(iter(DataLoader(dataset, batch_size=10)))
    assert asked == [dataset.indices]
    assert x.tolist() == dataset.indices
    assert y.tolist() == dataset.targets
    assert y.dtype == torch.int64


def test_nothing_left_out_is_the_data_set_itself():
    train = digits()
    assert restrict(train, None, None, True, 0) is train


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'n_labels': 23}, 'n_labels: expected an integer from 0 to 22, or None for all, got 23'),
        ({'n_labels': -1}, 'n_labels: .* got -1'),
        ({'n_labels': 0.1}, 'n_labels: .* got 0.1'),
        ({'n_labels': 0, 'keep_unlabelled': False}, 'n_labels: expected an integer from 1 to 22'),
        ({'n_labels': 11, 'subset': 10}, 'n_labels: expected an integer from 0 to 10'),
        ({'subset': 0}, 'subset: expected an integer from 1 to 22'),
        ({'subset': 23}, 'subset: .* got 23'),
        ({'n_labels': 4, 'seed': -1}, 'seed: expected an integer from 0 .* got -1'),
    ],
)
def test_numbers_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PartlyLabelled(Numbers(), **settings)
