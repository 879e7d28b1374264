from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, TensorDataset

from composer_kd.data import UNLABELLED, HeldOut, PartlyLabelled, digits
from composer_kd.data.held_out import held_out_indices
from composer_kd.errors import ConfigError

TARGETS = st.lists(st.sampled_from([0, 1, 2, 3, UNLABELLED]), min_size=2, max_size=120)


class Numbers(Dataset):
    """Sample i is (i, its target)."""

    num_classes = 4

    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return torch.tensor(index), self.targets[index]


class AtOnce(Numbers):
    def __getitems__(self, indices):
        self.loaded = indices
        return [self[index] for index in indices]


@settings(deadline=None)
@given(TARGETS, st.floats(0.05, 0.9), st.integers(0, 50))
def test_the_parts_are_disjoint_and_together_everything(targets, share, seed):
    labelled = [target for target in targets if target != UNLABELLED]
    count = round(share * len(labelled))
    if count == 0 or count == len(targets):
        with pytest.raises(ConfigError, match='hold_out'):
            HeldOut(Numbers(targets), share, 'held_out', seed)
        return
    rest, held_out = (HeldOut(Numbers(targets), share, part, seed) for part in ('rest', 'held_out'))
    seen = [[int(x) for x, _ in (part[i] for i in range(len(part)))] for part in (rest, held_out)]
    assert sorted(seen[0] + seen[1]) == list(range(len(targets)))
    assert len(held_out) == count
    assert UNLABELLED not in held_out.targets
    assert [targets[i] for i in seen[1]] == held_out.targets
    # Of each class the same share, give or take one and a half with four classes: by relative places, classes of one
    # sample come all at once.
    whole, part = Counter(labelled), Counter(held_out.targets)
    assert all(abs(part[c] - count * whole[c] / len(labelled)) <= 1.5 + 1e-9 for c in whole)


@settings(deadline=None)
@given(TARGETS, st.integers(0, 20))
def test_a_larger_share_holds_out_what_a_smaller_one_does(targets, seed):
    labelled = sum(target != UNLABELLED for target in targets)
    chosen = [set(held_out_indices(targets, share, seed)) for share in (0.2, 0.5, 0.8) if round(share * labelled)]
    assert all(small <= large for small, large in itertools.pairwise(chosen))


def test_the_choice_depends_on_the_seed_alone():
    one, same, other = (HeldOut(digits(), 0.1, 'held_out', seed).indices for seed in (0, 0, 1))
    assert one == same != other
    augmented = HeldOut(digits(augment=True), 0.1, 'held_out', 0)
    assert augmented.indices == one


def test_samples_that_keep_no_label_are_never_judged_by():
    few = PartlyLabelled(digits(), n_labels=100)
    rest, held_out = HeldOut(few, 0.2), HeldOut(few, 0.2, 'held_out')
    assert Counter(held_out.targets) == dict.fromkeys(range(10), 2)
    assert Counter(rest.targets)[UNLABELLED] == 1197
    assert all(y != UNLABELLED for _, y in (held_out[i] for i in range(len(held_out))))


def test_items_without_targets_are_read():
    pairs = TensorDataset(torch.arange(8.0), torch.tensor([0, 1] * 4))
    assert Counter(HeldOut(pairs, 0.5, 'held_out').targets) == {0: 2, 1: 2}
    mappings = [{'input_ids': [i], 'labels': i % 2} for i in range(8)]
    assert Counter(HeldOut(mappings, 0.5, 'held_out').targets) == {0: 2, 1: 2}
    tokens = [{'input_ids': [i], 'labels': [i, i]} for i in range(8)]  # no class numbers
    assert len(HeldOut(tokens, 0.25, 'held_out')) == 2


def test_a_loader_gets_whole_batches():
    part = HeldOut(AtOnce([0, 1] * 10), 0.3, 'held_out')
    (x, y), *rest = DataLoader(part, batch_size=6)
    assert not rest
    assert x.tolist() == part.indices == part.dataset.loaded
    assert y.tolist() == part.targets
    assert part.num_classes == 4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((0.0,), 'hold_out: expected a share between 0 and 1, got 0.0'),
        ((1,), 'got 1'),
        ((True,), 'got True'),
        ((0.01,), 'hold_out: 0.01 of 4 labelled samples is not a single one'),
        ((0.95,), 'leaves none to train on'),
        ((0.5, 'held-out'), "part: expected one of .* did you mean 'held_out'"),
        ((0.5, 'rest', -1), 'seed'),
    ],
)
def test_what_is_out_of_range_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        HeldOut(Numbers([0, 0, 1, 1]), *arguments)


def test_a_data_set_without_a_length_is_refused():
    with pytest.raises(ConfigError, match='has no length'):
        HeldOut(iter([]), 0.5)
