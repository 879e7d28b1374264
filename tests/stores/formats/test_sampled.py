"""Draws from the teacher's distribution: sizes, expectations, and that they depend on seed and position alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from composer_kd.errors import ConfigError, StoreError
from composer_kd.stores import Sampled, error, format_from


def there_and_back(form, logits, rows=None):
    rows = np.arange(len(logits)) if rows is None else rows
    records = form.encode(logits, rows)
    assert records.shape == (len(logits), form.nbytes(logits.shape[1]))
    return form.decode(records, logits.shape[1])


@pytest.mark.parametrize('power', [16, 17, 18])
def test_twelve_draws_take_the_promised_bytes(power):
    assert Sampled(12, 1.0).nbytes(2**power) <= 28


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 70_000), st.integers(0, 2**64 - 1))
def test_draws_are_sorted_classes(n, classes, seed):
    logits = torch.randn(2, classes, generator=torch.Generator().manual_seed(seed % 2**60))
    stored = there_and_back(Sampled(n, 1.0, seed), logits)
    assert stored.ids.shape == (2, n)
    assert torch.equal(stored.ids, stored.ids.sort().values)
    assert 0 <= stored.ids.min() <= stored.ids.max() < classes
    exact = torch.distributions.Categorical(logits=logits).entropy()
    assert torch.allclose(stored.entropy, exact, rtol=1e-3, atol=1e-5)


def test_draws_have_the_frequencies_of_the_softened_probabilities():
    logits = torch.tensor([[2.0, -torch.inf, 0.0, 1.0, -3.0]])
    stored = there_and_back(Sampled(50, 2.0, seed=3), logits.repeat(2000, 1))
    counts = torch.bincount(stored.ids.flatten(), minlength=5).numpy()
    expected = (logits[0] / 2).softmax(-1).double().numpy()
    assert counts[1] == 0
    seen = expected > 0
    expected = expected[seen] / expected.sum() * counts.sum()
    assert stats.chisquare(counts[seen], expected).pvalue > 1e-3


def test_the_expected_gradient_is_that_of_the_full_divergence():
    """Over many draws: within four standard errors, of each class of each position."""
    teacher, student = (torch.randn(3, 11, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    times, n, temperature = 4000, 12, 2.0
    rows = np.arange(3 * times)
    stored = there_and_back(Sampled(n, temperature, seed=5), teacher.repeat(times, 1), rows)
    leaf = student.repeat(times, 1).double().requires_grad_()
    log_probs = (leaf / temperature).log_softmax(-1)
    (-log_probs.gather(-1, stored.ids).mean(-1)).sum().backward()
    gradients = leaf.grad.reshape(times, 3, 11)
    full = student.double().requires_grad_()
    target = (teacher.double() / temperature).softmax(-1)
    torch.nn.functional.kl_div((full / temperature).log_softmax(-1), target, reduction='sum').backward()
    spread = gradients.std(0) / math.sqrt(times)
    assert ((gradients.mean(0) - full.grad).abs() <= 4 * spread + 1e-9).all()


def test_draws_depend_on_neither_batch_nor_order():
    logits, form = torch.randn(16, 1000), Sampled(12, 1.0, seed=9)
    whole = form.encode(logits, np.arange(16) + 70)
    parts = [form.encode(logits[[row]], np.array([row + 70])) for row in range(15, -1, -1)]
    assert np.array_equal(np.concatenate(parts)[::-1], whole)
    assert not np.array_equal(form.encode(logits, np.arange(16)), whole)
    assert not np.array_equal(Sampled(12, 1.0, seed=8).encode(logits, np.arange(16) + 70), whole)


def test_rare_classes_of_a_large_vocabulary_are_drawn():
    """A cumulative sum in float32 would never reach some of them."""
    classes = 2**17
    stored = there_and_back(Sampled(64, 1.0), torch.zeros(64, classes))
    assert stats.kstest((stored.ids.flatten().numpy() + 0.5) / classes, 'uniform').pvalue > 1e-3


def test_the_error_of_draws_is_zero_on_average():
    found = error(Sampled(64, 1.0), torch.randn(500, 30))
    assert abs(found.kl) < 0.02


def test_wrong_settings_are_refused():
    for settings_ in ({'n': 0}, {'seed': -1}, {'seed': 2**64}, {'temperature': 0}):
        with pytest.raises(ConfigError, match=f'sampled: {next(iter(settings_))}'):
            Sampled(**{'n': 3, 'temperature': 1.0, **settings_})
    with pytest.raises(StoreError, match='exclude all classes'):
        Sampled(3, 1.0).encode(torch.full((1, 4), -torch.inf), np.arange(1))


def test_settings_make_the_same_format():
    assert format_from(Sampled(12, 2.0, 7).settings()) == Sampled(12, 2.0, 7)
