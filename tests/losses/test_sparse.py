"""Sparse targets against the full distributions, computed with plain torch in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd.losses import KLDivergence, kl_divergence, soft_cross_entropy
from composer_kd.losses.divergences import cross_entropy_of_draws
from composer_kd.losses.kl import kl_of_draws
from composer_kd.losses.sparse import coarse, drawn_log_probs, sample_logits, top_logits


def logits(rows, classes, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return [(spread * torch.randn(rows, classes, generator=generator, dtype=torch.float64)) for _ in range(2)]


def joined(p, ids):
    """Probabilities of the classes ``ids``, and of all others together."""
    known = p.gather(-1, ids)
    rest = p.masked_fill(torch.zeros_like(p, dtype=torch.bool).scatter(-1, ids, True), 0.0).sum(-1, keepdim=True)
    return torch.cat([known, rest], -1)


@settings(deadline=None, max_examples=40)
@given(
    classes=st.integers(2, 40),
    k=st.integers(1, 40),
    temperature=st.floats(0.5, 8.0),
    seed=st.integers(0, 99),
    spread=st.floats(0.1, 20.0),
)
def test_it_is_the_divergence_after_the_other_classes_are_joined(classes, k, temperature, seed, spread):
    k = min(k, classes - 1)
    student, teacher = logits(6, classes, seed, spread)
    student.requires_grad_()
    target = top_logits(teacher, k, temperature)
    p, q = (torch.softmax(x / temperature, -1) for x in (teacher, student))
    p, q = joined(p, target.ids), joined(q, target.ids)
    expected = torch.where(p > 0, p * (p.clamp(min=1e-300).log() - q.clamp(min=1e-300).log()), 0.0).sum()
    expected = expected * temperature**2 / 6
    value = kl_divergence(*coarse(student, target), temperature)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-9)
    ours, theirs = (torch.autograd.grad(x, student)[0] for x in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(classes=st.sampled_from([63, 129, 640, 1000, 1291]), k=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_largest_of_long_rows_are_those_of_a_sort(classes, k, seed):
    (teacher, _) = logits(5, classes, seed)
    teacher = teacher.round(decimals=1)  # with ties
    teacher[0] = -torch.inf
    start = seed % (classes - k)
    teacher[0, start : start + k] = 1.0  # all others are excluded
    found = top_logits(teacher, k, 2.0)
    whole = (teacher / 2.0).log_softmax(-1)
    assert torch.equal(teacher.gather(-1, found.ids), teacher.sort(-1, descending=True).values[:, :k])
    assert all(len(set(ids)) == k for ids in found.ids.tolist())
    torch.testing.assert_close(found.log_probs, whole.gather(-1, found.ids))
    torch.testing.assert_close(found.log_rest.exp(), whole.scatter(-1, found.ids, -torch.inf).exp().sum(-1))


@pytest.mark.parametrize('gap', [60.0, 95.0, 120.0])
def test_a_sure_teacher_has_a_logarithm_of_the_rest(gap):
    """Its probability is below what float32 holds; a divergence that asks for it gets its logarithm all the same."""
    student, teacher = torch.zeros(3, 50), torch.zeros(3, 50)
    teacher[:2, 7] = gap
    target = top_logits(teacher.unflatten(0, (3, 1)), 1, 1.0)
    rest = teacher.double().log_softmax(-1).scatter(-1, target.ids.flatten(1), -torch.inf).logsumexp(-1)
    torch.testing.assert_close(target.log_rest[:, 0], rest.float())
    reverse = kl_divergence(*reversed(coarse(student, target.rows())), 1.0)
    assert reverse.item() == pytest.approx(kl_divergence(teacher.double(), student.double(), 1.0).item(), rel=1e-4)


def test_it_is_zero_at_equality_and_at_most_that_of_all_classes():
    student, teacher = logits(64, 30)
    target = top_logits(teacher, 5, 2.0)
    assert kl_divergence(*coarse(teacher, target), 2.0).item() == pytest.approx(0.0, abs=1e-12)
    assert 0 < kl_divergence(*coarse(student, target), 2.0) < kl_divergence(student, teacher, 2.0)


def test_a_rest_of_nearly_nothing_keeps_its_digits():
    """1 - (1 - 1e-12) has four digits in float64, and none in float32."""
    student = torch.tensor([[30.0, 0.0, 0.5, -0.5]])
    target = top_logits(torch.tensor([[3.0, 2.0, 1.0, 0.5]]), 1, 1.0)
    rest = coarse(student, target)[0].log_softmax(-1)[0, 1].item()
    others = torch.tensor([0.0, 0.5, -0.5], dtype=torch.float64).logsumexp(0)
    assert rest == pytest.approx(others.item() - 30.0, rel=1e-6)


def test_all_classes_known_is_the_plain_loss():
    student, teacher = logits(8, 6)
    target = top_logits(teacher, 6, 3.0)
    assert target.is_complete
    value = kl_divergence(student, target.dense(), 4.0)
    assert value.item() == pytest.approx(kl_divergence(student, teacher, 4.0).item(), rel=1e-6)


@pytest.mark.parametrize('least', [torch.finfo(torch.float32).min, -torch.inf])
def test_excluded_classes_count_nothing(least):
    student, teacher = (x.float() for x in logits(8, 12))
    masked = teacher.clone()
    masked[:, 9:] = least
    student[:, 9:] = least
    target = top_logits(masked, 4, 1.0)
    expected = kl_divergence(*coarse(student[:, :9], top_logits(teacher[:, :9], 4, 1.0)), 1.0)
    student.requires_grad_()
    value = kl_divergence(*coarse(student, target), 1.0)
    value.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert student.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    student, teacher = (x.half() for x in logits(8, 12))
    student.requires_grad_()
    value = KLDivergence(2.0)(*coarse(student, top_logits(teacher, 4, 2.0)))
    value.backward()
    assert value.dtype == torch.float32
    assert student.grad.dtype == torch.float16
    expected = KLDivergence(2.0)(*coarse(student.detach().double(), top_logits(teacher.double(), 4, 2.0)))
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_second_derivative_is_refused():
    student, teacher = logits(4, 12)
    student.requires_grad_()
    value = kl_divergence(*coarse(student, top_logits(teacher, 4, 1.0)), 1.0)
    (gradient,) = torch.autograd.grad(value, student, create_graph=True)
    with pytest.raises(RuntimeError, match='no second derivative'):
        gradient.square().sum().backward()


def test_draws_give_the_loss_and_its_gradient_on_average():
    """1,000 sets of 12 draws: value and gradient within four standard errors of those of all classes."""
    temperature, sets = 2.0, 1000
    student, teacher = logits(3, 20)
    generator = torch.Generator().manual_seed(1)
    values, gradients = [], []
    for _ in range(sets):
        uniform = torch.rand(3, 12, generator=generator, dtype=torch.float64)
        leaf = student.clone().requires_grad_()
        target = sample_logits(teacher, uniform, temperature)
        value = kl_of_draws(drawn_log_probs(leaf, target), target.entropy, temperature)
        value.backward()
        values.append(value.detach())
        gradients.append(leaf.grad)
    leaf = student.clone().requires_grad_()
    full = kl_divergence(leaf, teacher, temperature)
    full.backward()
    for found, expected in ((torch.stack(values), full.detach()), (torch.stack(gradients), leaf.grad)):
        error = found.std(0) / sets**0.5
        assert ((found.mean(0) - expected).abs() <= 4.0 * error + 1e-12).all()


def test_the_cross_entropy_of_draws_is_larger_by_the_entropy():
    student, teacher = logits(5, 20)
    target = sample_logits(teacher, torch.rand(5, 12, dtype=torch.float64), 2.0)
    log_probs = drawn_log_probs(student, target)
    difference = cross_entropy_of_draws(log_probs, target.entropy, 2.0) - kl_of_draws(log_probs, target.entropy, 2.0)
    exact = soft_cross_entropy(student, teacher, 2.0) - kl_divergence(student, teacher, 2.0)
    assert difference.item() == pytest.approx(exact.item(), rel=1e-6)


def test_draws_follow_the_probabilities():
    uniform = torch.linspace(0, 1, 10001, dtype=torch.float64)[:-1].unsqueeze(0)
    teacher = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
    counts = torch.bincount(sample_logits(teacher, uniform, 1.0).ids[0], minlength=4)
    assert counts.tolist() == pytest.approx([1000, 2000, 3000, 4000], abs=1)


def test_positions_can_be_flattened_and_chosen():
    target = top_logits(logits(6, 12)[0].reshape(2, 3, 12), 4, 1.0)
    assert target.shape == (2, 3, 12)
    rows = target.rows()
    assert rows.shape == (6, 12)
    assert rows.log_rest.shape == (6,)
    some = rows.at(torch.tensor([True, False, False, True, False, False]))
    torch.testing.assert_close(some.log_probs, target.log_probs[:, 0])


@pytest.mark.parametrize('offset', [0.0, 2000.0, -3e5])
def test_sequences_are_rows_and_their_gradient_is_that_of_plain_torch(offset):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 40, dtype=torch.float64) + offset
    target = top_logits(torch.randn(2, 3, 40) * 3, 5, 2.0).rows()
    of_sequences, of_rows, of_plain = (logits.clone().requires_grad_() for _ in range(3))
    weight = torch.randn(6, 6, dtype=torch.float64)
    (coarse(of_sequences, target)[0] * weight).sum().backward()
    (coarse(of_rows.flatten(0, 1), target)[0] * weight).sum().backward()
    probs = (of_plain / 2.0).log_softmax(-1).flatten(0, 1)
    others = probs.scatter(-1, target.ids, -torch.inf).logsumexp(-1, keepdim=True)
    (2.0 * torch.cat([probs.gather(-1, target.ids), others], -1) * weight).sum().backward()
    torch.testing.assert_close(of_sequences.grad, of_rows.grad, rtol=0, atol=0)
    torch.testing.assert_close(of_sequences.grad, of_plain.grad, rtol=1e-8, atol=1e-9)
