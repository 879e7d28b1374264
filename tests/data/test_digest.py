from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd.data.counter_random import uniforms
from composer_kd.data.digest import digest, same
from composer_kd.errors import ConfigError


@pytest.fixture(scope='module')
def padded():
    """Smooth pictures (1024, 3, 40, 40), normalised, of which crops are taken."""
    rough = torch.rand(1024, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(rough, size=(40, 40), mode='bicubic').clamp(0, 1)
    return (smooth * 255).round().div(255).sub(0.47).div(0.25)


def crop(padded, top=4, left=4):
    return padded[:, :, top : top + 32, left : left + 32].contiguous()


OTHERS = {
    'one pixel right': lambda x: crop(x, left=5),
    'one pixel up': lambda x: crop(x, top=3),
    'far crop': lambda x: crop(x, 0, 8),
    'flip': lambda x: crop(x).flip(3),
    'upside down': lambda x: crop(x).flip(2),
    'inverted': lambda x: -crop(x),
    'channels swapped': lambda x: crop(x)[:, [2, 1, 0]],
    'another sample': lambda x: crop(x).roll(1, 0),
    'a little brighter': lambda x: crop(x) + 0.02,
    'more contrast': lambda x: crop(x) * 1.02,
    'small erasing': lambda x: crop(x).masked_fill(torch.zeros(32, 32).index_fill_(0, torch.arange(5), 1).bool(), 0),
}


@pytest.mark.parametrize('name', OTHERS)
def test_other_images_are_told_from_the_right_ones(padded, name):
    passed = same(digest(crop(padded)), digest(OTHERS[name](padded)))
    assert passed.float().mean() < 0.01


@pytest.mark.parametrize('scale', [1e-3, 1.0, 255.0])
@pytest.mark.parametrize('noise', [0.0, 1e-6, 1e-5])
def test_differences_of_rounding_are_let_pass(padded, scale, noise):
    x = crop(padded) * scale
    other = x * (1 + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))
    assert same(digest(x), digest(other)).all()
    assert same(digest(x), digest(other.double())).all()
    assert digest(x).eq(digest(x.roll(1, 0))).float().mean() < 0.01  # whatever the scale


def test_the_digest_of_images_is_that_of_its_formula(padded):
    x = crop(padded)[:5]
    flat = x.flatten(1).double().numpy()[:, ::13]  # 13: the first above 3072 / 256 that is coprime to 3072
    w, u = uniforms(np.arange(flat.shape[1], dtype=np.uint64), 2).T
    totals = (w * (np.abs(flat) + u * flat)).sum(1).astype(np.float32)
    expected = torch.from_numpy((totals.view(np.uint32) >> 9).astype(np.uint16).view(np.int16))
    assert same(digest(x), expected).all()


@pytest.mark.parametrize('shape', [(3,), (1,), (1, 8, 8), (3, 17, 23), (3, 224, 224), (7, 5)])
def test_it_depends_on_the_sample_alone(shape):
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    whole = digest(x)
    assert whole.dtype == torch.int16
    assert torch.equal(whole, torch.cat([digest(one) for one in x.split(1)]))
    assert torch.equal(whole[:4], digest(x[:4]))


def test_memory_formats_and_autocast_make_no_difference(padded):
    x = crop(padded)
    assert torch.equal(digest(x), digest(x.to(memory_format=torch.channels_last)))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(digest(x), digest(x.clone()))
    assert torch.equal(digest(x), digest(x.clone().requires_grad_()))


def test_bytes_are_images_too_and_nothing_is_an_image_like_others():
    x = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(digest(x), digest(x.float()))
    assert digest(torch.zeros(2, 3, 8, 8)).tolist() == [0, 0]
    assert digest(torch.zeros(0, 3, 8, 8)).shape == digest(torch.zeros(0, 3).long()).shape == (0,)
    assert digest(torch.full((1, 3, 8, 8), float('nan'))).shape == (1,)


def multilinear(ids):
    """The hash of token ids in Python's integers."""
    high, low = (uniforms(np.arange(max(len(ids), 1), dtype=np.uint64), 2) * 2.0**32).astype(np.uint64).T.tolist()
    weights = [(one << 32) | other | 1 for one, other in zip(high, low)]
    number = (sum((token + 1) * weight for token, weight in zip(ids, weights)) % 2**64) >> 48
    return number - 2**16 if number >= 2**15 else number


@settings(max_examples=100, deadline=None)
@given(
    ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=20),
    before=st.integers(0, 5),
    after=st.integers(0, 5),
    padding=st.integers(0, 9),
)
def test_sequences_are_the_same_however_they_are_padded(ids, before, after, padding):
    expected = multilinear(ids)
    assert digest(torch.tensor([ids])).tolist() == [expected]
    row = torch.tensor([[padding] * before + ids + [padding] * after])
    mask = torch.tensor([[0] * before + [1] * len(ids) + [0] * after])
    for kind in (mask, mask.bool(), mask.float()):
        assert digest(row, kind).tolist() == [expected]


@pytest.mark.parametrize('dtype', [torch.int32, torch.int64])
def test_other_sequences_are_told_from_the_right_ones(dtype):
    ids = torch.randint(0, 30000, (20000, 16), dtype=dtype, generator=torch.Generator().manual_seed(0))
    right = digest(ids)
    for other in (ids.roll(1, 0), ids.flip(1), ids + torch.eye(16, dtype=dtype)[3], ids[:, 1:], ids.sort(1).values):
        assert same(right, digest(other)).float().mean() < 1e-3
    assert len(right.unique()) > 15000  # 17,200 of 65,536 are expected


def test_an_empty_row_and_lengths_count():
    ids = torch.zeros(2, 4, dtype=torch.int64)
    assert digest(ids, torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0]]))[0] == 0
    lengths = digest(ids.expand(2, 4).repeat(2, 1), torch.ones(4, 4).tril())
    assert len(lengths.unique()) == 4


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r'mask: is for token ids .B, S., got inputs \(2, 3\) of torch.float32'):
        digest(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ConfigError, match=r'expected the shape of the token ids, \(2, 3\), got \(2, 1\)'):
        digest(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 1))
    with pytest.raises(ConfigError, match='expected int16, got'):
        same(torch.zeros(2, dtype=torch.int32), torch.zeros(2, dtype=torch.int16))


def test_one_step_is_the_same_and_more_is_not_all_around_the_circle():
    everything = torch.arange(-(2**15), 2**15).short()
    for step, expected in ((-2, False), (-1, True), (0, True), (1, True), (2, False), (2**15, False), (256, False)):
        other = ((torch.arange(-(2**15), 2**15) + step + 2**15) % 2**16 - 2**15).short()
        assert same(everything, other).eq(expected).all()
