"""The k most probable classes: sizes, what comes back, and how far it is from the teacher."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd.errors import ConfigError, StoreError
from composer_kd.losses import kl_divergence
from composer_kd.losses.sparse import coarse, top_logits
from composer_kd.stores import TopK, error, format_from

BITS = [4, 4.8, 5, 6.2, 8, 16]


def like_a_language_model(rows, classes, seed=0):
    """Logits with a few probable classes among many, as confident as language models are on average."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    places = torch.randint(classes, (rows, 8), generator=generator)
    return logits.scatter_add(1, places, 3 * torch.empty(rows, 8).exponential_(generator=generator))


def there_and_back(form, logits):
    records = form.encode(logits, np.arange(len(logits)))
    assert records.dtype == np.uint8
    assert records.shape == (len(logits), form.nbytes(logits.shape[1]))
    return form.decode(records, logits.shape[1])


@pytest.mark.parametrize(('power', 'most'), [(16, 110), (17, 116), (18, 120)])
def test_a_token_takes_the_promised_bytes(power, most):
    assert TopK(50, 1.0, bits=4.8).nbytes(2**power) <= most
    assert TopK(50, 1.0, bits=4.8).nbytes(2 ** (power - 1) + 1) <= most


@pytest.mark.parametrize(('classes', 'nbytes'), [(256, 32), (65_536, 42)])
def test_an_image_takes_the_promised_bytes(classes, nbytes):
    assert TopK(10, 4.0).nbytes(classes) == nbytes


@settings(deadline=None)
@given(st.data())
def test_the_same_classes_come_back_with_a_distribution(data):
    classes = data.draw(st.integers(1, 70_000) | st.integers(1, 300))
    k = data.draw(st.integers(1, min(classes, 60)))
    form = TopK(k, data.draw(st.sampled_from([0.5, 1.0, 4.0])), data.draw(st.sampled_from(BITS)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**30)))
    logits = torch.randn(2, classes, generator=generator) * data.draw(st.sampled_from([0.0, 1.0, 10.0, 300.0]))
    stored, exact = there_and_back(form, logits), top_logits(logits, k, form.temperature)
    assert torch.equal(stored.ids.sort().values, exact.ids.sort().values)
    assert stored.shape == logits.shape
    total = stored.log_probs.exp().sum(-1) + stored.log_rest.exp()
    assert torch.allclose(total, torch.ones(2), atol=1e-5)
    assert stored.log_probs.isfinite().all()
    assert torch.equal(stored.log_rest.isinf(), torch.full((2,), k == classes))
    # Sorting by ids, the order of both is the same.
    kept, known = (target.log_probs.gather(-1, target.ids.argsort()) for target in (stored, exact))
    probs, expected = kept.exp(), known.exp()
    assert ((probs - expected).abs() <= 0.25 * expected + 0.03).all()


@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('k', [1, 3, 5, 6])
def test_excluded_classes_are_no_nan_in_a_loss(bits, k):
    logits = torch.tensor([[2.0, 0.5, 1.0, 3.0, 0.0, 9.0], [-5.0, 0.0, 4.0, -9.0, 1e5, 0.0]])
    logits[0, 1:5], logits[1, 0] = torch.finfo(torch.float32).min, -torch.inf
    stored = there_and_back(TopK(k, 1.0, bits), logits)
    student = torch.randn(2, 6, requires_grad=True)
    loss = kl_divergence(*coarse(student, stored), 1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(('bits', 'most'), [(16, 1e-6), (8, 3e-5), (5, 2e-3), (4.8, 2e-3), (4, 8e-3)])
def test_the_divergence_from_the_teacher_is_small(bits, most):
    logits = like_a_language_model(64, 2**14)
    found = error(TopK(50, 1.0, bits), logits)
    assert 0 <= found.kl < most
    assert found.top1 > 0.9
    assert found.positions == 64


def test_a_divergence_of_equal_models_is_almost_zero():
    logits = torch.randn(256, 100)
    stored = there_and_back(TopK(10, 4.0), logits)
    assert abs(kl_divergence(*coarse(logits, stored), 4.0)) < 1e-5


def test_bytes_depend_on_neither_batch_nor_order():
    logits = like_a_language_model(32, 1000)
    for form in (TopK(10, 2.0), TopK(50, 1.0, 4.8)):
        whole = form.encode(logits, np.arange(32))
        parts = [form.encode(logits[[row]], np.array([row])) for row in range(31, -1, -1)]
        assert np.array_equal(np.concatenate(parts)[::-1], whole)


def test_half_precision_logits_are_the_same_as_in_float32():
    logits = like_a_language_model(8, 1000).bfloat16()
    form = TopK(10, 2.0)
    assert np.array_equal(form.encode(logits, np.arange(8)), form.encode(logits.float(), np.arange(8)))


def test_a_batch_may_be_empty():
    for form in (TopK(3, 1.0), TopK(3, 1.0, 5)):
        assert there_and_back(form, torch.zeros(0, 9)).shape == (0, 9)


@pytest.mark.parametrize('bits', [3, 8.2, 4.9, 9, 15, 32, '5', None, float('nan')])
def test_other_bits_are_refused(bits):
    with pytest.raises(ConfigError, match='bits'):
        TopK(3, 1.0, bits)


def test_wrong_settings_are_refused():
    for k in (0, True, 2.0):
        with pytest.raises(ConfigError, match='topk: k'):
            TopK(k, 1.0)
    for temperature in (0.0, -1, float('inf'), '1', None):
        with pytest.raises(ConfigError, match='topk: temperature'):
            TopK(3, temperature)
    with pytest.raises(StoreError, match='k=5 of 4 classes'):
        TopK(5, 1.0).nbytes(4)
    with pytest.raises(StoreError, match=r'format topk: .*temperature'):
        format_from({'kind': 'topk', 'k': 3})
    with pytest.raises(StoreError, match='NaN or infinite'):
        TopK(1, 1.0).encode(torch.tensor([[torch.nan, 1.0]]), np.arange(1))


@pytest.mark.parametrize('form', [TopK(10, 4.0), TopK(50, 1.0, 4.8)])
def test_settings_make_the_same_format(form):
    assert format_from(form.settings()) == form
