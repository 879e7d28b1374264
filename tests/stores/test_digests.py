"""Digests of inputs: by sample, and different for whatever a transform may change."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad

from composer_kd.errors import StoreError
from composer_kd.stores import digests

DTYPES = [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.bool]


def reference(*tensors):
    """Each sample with Python's integers."""
    from composer_kd.stores.formats.uniform import hashed

    total = 0
    for number, tensor in enumerate(tensors):
        content = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        content += bytes(-len(content) % 4)
        words = [int.from_bytes(content[at : at + 4], 'little') for at in range(0, len(content), 4)]
        weights = hashed(number, np.arange(len(words), dtype=np.uint64)).tolist()
        total += sum(word * weight for word, weight in zip(words, weights))
    return (total % 2**64) >> 48


@given(st.data())
def test_digests_are_those_of_each_sample_alone(data):
    shape = data.draw(st.lists(st.integers(1, 4), max_size=3))
    batch = data.draw(st.integers(1, 4))
    chance = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    inputs = [
        (torch.rand(batch, *shape, generator=chance) * 300).to(data.draw(st.sampled_from(DTYPES)))
        for _ in range(data.draw(st.integers(1, 2)))
    ]
    found = digests(*inputs)
    assert found.tolist() == [reference(*(x[row] for x in inputs)) for row in range(batch)]
    order = torch.randperm(batch, generator=chance)
    assert np.array_equal(digests(*(x[order] for x in inputs)), found[order.numpy()])


@pytest.mark.parametrize(
    'change',
    [
        lambda x: x.flip(-1),
        lambda x: -x,
        lambda x: x.roll(1, -1),
        lambda x: x.roll(1, 0),
        lambda x: x.transpose(-1, -2),
        lambda x: torch.cat([-x[..., :2], x[..., 2:]], -1),
        lambda x: torch.nextafter(x, x + 1),
        lambda x: x.half(),
    ],
)
def test_other_inputs_have_other_digests(change):
    x = torch.randn(512, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert (digests(x) == digests(change(x))).sum() <= 2
    assert len(np.unique(digests(x))) > 500


def test_padding_with_zeros_changes_nothing():
    ids, mask = torch.randint(1, 99, (8, 5)), torch.ones(8, 5, dtype=torch.int64)
    wide = digests(pad(ids, (0, 7)), pad(mask, (0, 7)))
    assert np.array_equal(digests(ids, mask), wide)
    assert (digests(mask, ids) != wide).any()


def test_samples_must_be_those_of_one_batch():
    for inputs in ((), (torch.zeros(2, 3), torch.zeros(3, 3)), (torch.tensor(1.0),)):
        with pytest.raises(StoreError, match='of one batch'):
            digests(*inputs)
    assert digests(torch.zeros(0, 3)).shape == (0,)
