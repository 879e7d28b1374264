"""All logits, or hidden states, in one dtype."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from composer_kd.errors import ConfigError, StoreError
from composer_kd.losses import kl_divergence
from composer_kd.stores import Dense, Hidden, format_from

DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16, 'float32': torch.float32}


def there_and_back(form, outputs):
    records = form.encode(outputs, np.arange(len(outputs)))
    assert records.dtype == np.uint8
    assert records.shape == (len(outputs), form.nbytes(outputs.shape[1]))
    return form.decode(records, outputs.shape[1])


@given(st.sampled_from(sorted(DTYPES)), st.integers(0, 5), st.integers(1, 9), st.integers(0, 99))
def test_logits_come_back_rounded(dtype, rows, classes, seed):
    logits = torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * 10
    assert torch.equal(there_and_back(Dense(dtype), logits), logits.to(DTYPES[dtype]))
    assert torch.equal(there_and_back(Hidden(classes, dtype), logits), logits.to(DTYPES[dtype]))


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('given_dtype', [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('lowest', ['min', 'inf', -1e30])
def test_excluded_classes_stay_excluded(dtype, given_dtype, lowest):
    logits = torch.tensor([[2.0, 0.0, 1.0, 3.0], [-5.0, 0.0, 4.0, -9.0]]).to(given_dtype)
    low = {'min': torch.finfo(given_dtype).min, 'inf': -torch.inf}.get(lowest, max(-1e30, torch.finfo(given_dtype).min))
    logits[:, 1] = low
    stored = there_and_back(Dense(dtype), logits)
    assert stored.isfinite().all()
    assert torch.equal(stored[:, [0, 2, 3]], logits[:, [0, 2, 3]].to(DTYPES[dtype]))
    for temperature in (1.0, 20.0):
        assert (stored.float() / temperature).softmax(-1)[:, 1].eq(0).all()
    student = logits.float().clone()
    assert kl_divergence(student, stored, 1.0) < 1e-4


@pytest.mark.parametrize(
    ('dtype', 'logits'),
    [
        ('float16', [[7e4, 0.0]]),
        ('float16', [[-6e4, -7e4]]),  # raised, the second would count
        ('bfloat16', [[3.4e38, 0.0]]),
        ('float32', [[torch.nan, 0.0]]),
        ('float32', [[torch.inf, 0.0]]),
        ('float32', [[-torch.inf, -torch.inf]]),
    ],
)
def test_what_cannot_be_held_is_refused(dtype, logits):
    with pytest.raises(StoreError, match=r'logits: .* of 1 positions|logits: some numbers'):
        Dense(dtype).encode(torch.tensor(logits), np.arange(1))


def test_hidden_states_that_overflow_are_refused():
    with pytest.raises(StoreError, match=r'up to 65504; the largest finite one is 70000.*bfloat16'):
        Hidden(2, 'float16').encode(torch.tensor([[7e4, 0.0]]), np.arange(1))
    with pytest.raises(StoreError, match=r'expected hidden states \(N, 3\)'):
        Hidden(3).encode(torch.zeros(1, 2), np.arange(1))


@pytest.mark.parametrize('form', [Dense(), Dense('float32'), Hidden(7, 'float16')])
def test_settings_make_the_same_format(form):
    assert format_from(form.settings()) == form
    assert form.temperature is None


def test_reading_shares_memory():
    records = Dense().encode(torch.randn(3, 4), np.arange(3))
    stored = Dense().decode(records, 4)
    records[:] = 0
    assert stored.eq(0).all()


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'float16'"):
        Dense('float17')
    with pytest.raises(StoreError, match=r"kind 'denze' is unknown; did you mean 'dense'"):
        format_from({'kind': 'denze'})
    with pytest.raises(StoreError, match=r'format dense: .*bits'):
        format_from({'kind': 'dense', 'bits': 3})
    with pytest.raises(StoreError, match=r'expected records \(N, 8\)'):
        Dense().decode(np.zeros((1, 7), np.uint8), 4)
    with pytest.raises(StoreError, match='floating-point logits'):
        Dense().encode(torch.zeros(1, 2, dtype=torch.int64), np.arange(1))
