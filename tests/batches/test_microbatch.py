"""However a batch is cut and dealt to ranks, its parts add up to the mean over what counts in the whole of it."""

from types import SimpleNamespace

import pytest
import torch
from composer.core import Time
from composer.devices import DeviceCPU
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from composer_kd.batches.counts import BatchCount
from composer_kd.batches.microbatch import BatchFormat, Microbatch

IGNORED = -100


def state_of(batch, number=3):
    timestamp = SimpleNamespace(batch=Time(number, 'ba'))
    return SimpleNamespace(batch=batch, timestamp=timestamp, device=DeviceCPU(), auto_microbatching=False)


@given(
    labels=st.lists(st.lists(st.sampled_from([IGNORED, 1, 2]), min_size=4, max_size=4), min_size=1, max_size=9),
    size=st.integers(1, 9),
    shift=st.booleans(),
)
def test_shares_of_microbatches_make_the_mean_over_the_whole(labels, size, shift):
    labels = torch.tensor(labels)
    values = torch.arange(labels.numel(), dtype=torch.float32).view_as(labels)
    counts = labels != IGNORED
    if shift:  # position i answers for label i + 1
        counts = torch.cat([counts[:, 1:], torch.zeros(len(labels), 1, dtype=torch.bool)], 1)
    if not counts.any():
        return
    form, count = BatchFormat(shift_labels=shift), BatchCount(form=BatchFormat(shift_labels=shift))
    count.count(state_of({'labels': labels}), {'labels': labels})
    total = torch.zeros(())
    for part, value in zip(labels.split(size), values.split(size)):
        micro = Microbatch.read(state_of({'labels': part}), form, count)
        mask = torch.ones_like(part, dtype=torch.bool) if micro.valid is None else micro.valid.mask
        mean = value[mask].mean() if mask.any() else torch.zeros(())
        share = 1.0 if micro.share is None else micro.share
        total += mean * share * len(part) / len(labels)  # Composer weighs by samples
    assert total.item() == pytest.approx(values[counts].mean().item(), rel=1e-5)


def test_a_count_of_another_batch_does_not_reach_it():
    labels = torch.tensor([[1, IGNORED], [IGNORED, IGNORED]])
    count = BatchCount()
    count.count(state_of({'labels': labels}, number=3), {'labels': labels})
    assert Microbatch.read(state_of({'labels': labels}, number=3), BatchFormat(), count).share is not None
    assert Microbatch.read(state_of({'labels': labels}, number=4), BatchFormat(), count).share is None


def test_features_of_tokens_count_where_attention_sees():
    batch = {'labels': torch.tensor([[1, IGNORED, IGNORED]]), 'attention_mask': torch.tensor([[1, 1, 0]])}
    count = BatchCount(of_tokens=True)
    count.count(state_of(batch), batch)
    micro = Microbatch.read(state_of(batch), BatchFormat(), count, with_tokens=True)
    assert micro.valid.mask.tolist() == [[True, False, False]]
    assert micro.tokens.mask.tolist() == [[True, True, False]]
    assert micro.token_share.item() == 1
    assert Microbatch.read(state_of(batch), BatchFormat(), count).tokens is None


@pytest.mark.parametrize(
    ('form', 'batch', 'index'),
    [
        (BatchFormat(takes_index=True), (torch.zeros(2, 3), torch.ones(2), torch.tensor([7, 8])), [7, 8]),
        (BatchFormat(), (torch.zeros(2, 3), torch.ones(2)), None),
        (BatchFormat(), {'x': torch.zeros(2, 3), 'index': torch.tensor([5, 6])}, [5, 6]),
    ],
)
def test_the_index_is_split_off_where_it_is_known(form, batch, index):
    micro = Microbatch.read(state_of(batch), form, BatchCount())
    assert (None if micro.index is None else micro.index.tolist()) == index
    assert isinstance(micro.batch, dict) or len(micro.batch) == 2


def test_labels_are_those_that_positions_answer_for():
    batch = {'labels': torch.tensor([[5, 7, 2]])}
    micro = Microbatch.read(state_of(batch), BatchFormat(shift_labels=True), BatchCount())
    assert micro.labels.tolist() == [[7, 2, IGNORED]]


def test_a_model_says_how_its_batches_are_read():
    class Next(nn.Module):
        shift_labels = takes_index = True

    assert BatchFormat.of(Next()) == BatchFormat(takes_index=True, shift_labels=True)
