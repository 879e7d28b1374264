import math

import pytest
import torch
import torch.nn.functional as F

from composer_kd.losses import (
    GeneralizedJSD,
    ReverseKL,
    SoftCrossEntropy,
    _fused,
    generalized_jsd,
    kl_divergence,
    reverse_kl,
    soft_cross_entropy,
)
from composer_kd.losses._fused import FUSED_FROM, fused

HALF = torch.zeros(1, 2)  # (1/2, 1/2)
QUARTER = torch.tensor([[1.0, 3.0]]).log()  # (1/4, 3/4)
BIG = (9, 1 + FUSED_FROM // 8)  # large enough for the fused pass
ROW_LOSSES = {
    'forward_kl': _fused.forward_kl,
    'cross_entropy': _fused.cross_entropy,
    'reverse_kl': _fused.reverse_kl,
    'mixture': _fused.mixture(0.3),
}


def jsd_in_logarithms(student, teacher, beta=0.5, temperature=1.0):
    log_s, log_t = ((x / temperature).log_softmax(-1) for x in (student, teacher))
    log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
    to_m = [F.kl_div(log_m, x, reduction='batchmean', log_target=True) for x in (log_t, log_s)]
    return (beta * to_m[0] + (1 - beta) * to_m[1]) * temperature**2


def reverse_in_logarithms(student, teacher, temperature=1.0):
    log_s, log_t = ((x / temperature).log_softmax(-1) for x in (student, teacher))
    return F.kl_div(log_t, log_s, reduction='batchmean', log_target=True) * temperature**2


def cross_entropy_in_logarithms(student, teacher, temperature=1.0):
    return F.cross_entropy(student / temperature, (teacher / temperature).softmax(-1)) * temperature**2


PAIRS = [
    (reverse_kl, reverse_in_logarithms),
    (generalized_jsd, jsd_in_logarithms),
    (soft_cross_entropy, cross_entropy_in_logarithms),
]


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64), torch.randn(*shape, dtype=torch.float64)


def test_reverse_kl_by_hand():
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)  # sum of p_s log(p_s / p_t)
    assert reverse_kl(HALF, QUARTER).item() == pytest.approx(by_hand, rel=1e-6)


def test_reverse_kl_is_kl_with_the_sides_changed():
    student, teacher = random(6, 5)
    assert reverse_kl(student, teacher, 3.0).item() == pytest.approx(kl_divergence(teacher, student, 3.0).item())
    assert reverse_kl(student, teacher, 3.0).item() != pytest.approx(kl_divergence(student, teacher, 3.0).item())


def test_jsd_by_hand():
    # a quarter of the teacher (1/4, 3/4) and three of the student (1/2, 1/2): m = (7/16, 9/16)
    to_teacher = 1 / 4 * math.log(4 / 7) + 3 / 4 * math.log(12 / 9)
    to_student = 1 / 2 * math.log(8 / 7) + 1 / 2 * math.log(8 / 9)
    value = generalized_jsd(HALF, QUARTER, beta=0.25).item()
    assert value == pytest.approx(0.25 * to_teacher + 0.75 * to_student, rel=1e-6)


def test_jsd_of_two_certain_answers_is_the_entropy_of_their_mixture():
    student, teacher = torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]])
    assert generalized_jsd(student, teacher).item() == pytest.approx(math.log(2.0))


def test_jsd_is_forward_and_reverse_kl_at_its_ends():
    student, teacher = random(6, 5)
    assert generalized_jsd(student, teacher, 0.0, 2.0) == kl_divergence(student, teacher, 2.0)
    assert generalized_jsd(student, teacher, 1.0, 2.0) == reverse_kl(student, teacher, 2.0)
    # which are the limits of the loss over beta, and over 1 - beta
    tiny = 1e-6
    forward, backward = kl_divergence(student, teacher, 1.0), reverse_kl(student, teacher)
    assert generalized_jsd(student, teacher, tiny).item() / tiny == pytest.approx(forward.item(), rel=1e-4)
    assert generalized_jsd(student, teacher, 1 - tiny).item() / tiny == pytest.approx(backward.item(), rel=1e-4)


def test_jsd_changes_sides_with_beta():
    student, teacher = random(6, 5)
    changed = generalized_jsd(teacher, student, beta=0.7)
    assert generalized_jsd(student, teacher, beta=0.3).item() == pytest.approx(changed.item())


def test_soft_cross_entropy_is_torchs():
    student, teacher = random(6, 5)
    expected = F.cross_entropy(student / 3, (teacher / 3).softmax(-1)) * 9
    assert soft_cross_entropy(student, teacher, 3.0).item() == pytest.approx(expected.item())


def test_soft_cross_entropy_has_the_gradient_of_kl_and_a_greater_value():
    student, teacher = random(6, 5)
    student.requires_grad_()
    soft, divergence = soft_cross_entropy(student, teacher, 3.0), kl_divergence(student, teacher, 3.0)
    torch.testing.assert_close(torch.autograd.grad(soft, student), torch.autograd.grad(divergence, student))
    assert soft > divergence
    assert soft_cross_entropy(teacher, teacher) > 0.1


@pytest.mark.parametrize('loss', [reverse_kl, generalized_jsd, soft_cross_entropy])
def test_the_mean_runs_over_all_rows(loss):
    student, teacher = random(2, 3, 5)
    rows = loss(student.reshape(6, 5), teacher.reshape(6, 5))
    assert loss(student, teacher).item() == pytest.approx(rows.item())
    each = [loss(s, t).item() for s, t in zip(student.reshape(6, 1, 5), teacher.reshape(6, 1, 5))]
    assert rows.item() == pytest.approx(sum(each) / 6)


@pytest.mark.parametrize('loss', [reverse_kl, generalized_jsd, soft_cross_entropy])
def test_shapes_that_differ(loss):
    with pytest.raises(ValueError, match=rf'{loss.__name__}: student \(2, 3\) and teacher \(1, 3\)'):
        loss(torch.zeros(2, 3), torch.zeros(1, 3))


@pytest.mark.parametrize(
    ('twin', 'function'),
    [(ReverseKL, reverse_kl), (SoftCrossEntropy, soft_cross_entropy), (GeneralizedJSD, generalized_jsd)],
)
def test_the_temperature_may_be_scheduled(twin, function):
    student, teacher = random(6, 5)
    loss = twin(temperature=1.0)
    assert loss(student, teacher) == function(student, teacher)
    loss.temperature = 4.0
    assert loss(student, teacher) == function(student, teacher, temperature=4.0)


@pytest.mark.parametrize('twin', [ReverseKL, SoftCrossEntropy, GeneralizedJSD])
@pytest.mark.parametrize('temperature', [0.0, -1.0, math.nan, math.inf, '4', True])
def test_bad_temperature(twin, temperature):
    with pytest.raises(ValueError, match=f'{twin.__name__}: temperature must be a positive finite number'):
        twin(temperature=temperature)


@pytest.mark.parametrize('beta', [-0.1, 1.1, math.nan])
def test_bad_beta(beta):
    with pytest.raises(ValueError, match='GeneralizedJSD: beta must be'):
        GeneralizedJSD(beta)
    with pytest.raises(ValueError, match='generalized_jsd: beta must be within 0 and 1'):
        generalized_jsd(HALF, QUARTER, beta)


def test_beta_may_be_scheduled():
    loss = GeneralizedJSD(0.5)
    loss.beta = 1.0
    assert loss(HALF, QUARTER) == reverse_kl(HALF, QUARTER)


@pytest.mark.parametrize(('loss', 'plain'), PAIRS)
@pytest.mark.parametrize('temperature', [1.0, 4.0])
@pytest.mark.parametrize('chunk', [2**18, 2**15], ids=['one chunk', 'an incomplete last one'])
def test_large_inputs_have_the_value_and_gradient_of_plain_torch(loss, plain, temperature, chunk, monkeypatch):
    monkeypatch.setitem(_fused._CHUNK, 'cpu', chunk)
    student, teacher = (3 * torch.randn(BIG) for _ in range(2))
    student.requires_grad_()
    value = loss(student, teacher, temperature=temperature)
    exact = student.detach().double().requires_grad_()
    expected = plain(exact, teacher.double(), temperature=temperature)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    (grad,), (expected_grad,) = torch.autograd.grad(3 * value, student), torch.autograd.grad(3 * expected, exact)
    torch.testing.assert_close(grad, expected_grad.float(), rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize('loss', ROW_LOSSES.values(), ids=ROW_LOSSES)
@pytest.mark.parametrize('weights', [None, torch.tensor([True, False, True])], ids=['all', 'some'])
def test_row_losses_have_the_gradient_of_finite_differences(loss, weights):
    student, teacher = random(3, 4)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: fused(loss, s, teacher, 2.0, weights), (student,))
    kept = slice(None) if weights is None else weights
    selected = fused(loss, student[kept], teacher[kept], 2.0)
    assert fused(loss, student, teacher, 2.0, weights).item() == pytest.approx(selected.item())


@pytest.mark.parametrize('loss', [reverse_kl, generalized_jsd, soft_cross_entropy])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_large_inputs_stay_finite_at_extreme_logits(loss, dtype):
    student, teacher = (torch.randn(BIG) * 1e4).to(dtype).requires_grad_(), (torch.randn(BIG) * 1e4).to(dtype)
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.dtype == dtype


def test_jsd_of_answers_without_overlap_is_bounded_at_extreme_logits():
    student, teacher = torch.full(BIG, -1e4), torch.full(BIG, -1e4)
    student[:, 0], teacher[:, 1] = 1e4, 1e4
    assert generalized_jsd(student, teacher).item() == pytest.approx(math.log(2.0))


@pytest.mark.parametrize('loss', [reverse_kl, generalized_jsd])
def test_large_equal_inputs_have_no_loss_and_no_gradient(loss):
    student = torch.randn(BIG).requires_grad_()
    value = loss(student, student.detach().clone())
    value.backward()
    assert abs(value.item()) < 1e-6
    assert student.grad.abs().max() < 1e-7


@pytest.mark.parametrize('beta', [0.1, 0.5, 0.9])
@pytest.mark.parametrize('apart', [0.0, 1e-4, 1e-3, 1e-2])
def test_jsd_near_equality_keeps_its_digits_and_is_never_negative(beta, apart):
    teacher = 3 * torch.randn(32, 4096, generator=torch.Generator().manual_seed(1))
    student = teacher + apart * torch.randn(teacher.shape, generator=torch.Generator().manual_seed(2))
    value, exact = (generalized_jsd(s, t, beta).item() for s, t in ((student, teacher), (student.double(), teacher)))
    assert value >= 0.0
    assert value == pytest.approx(exact, rel=1e-3, abs=1e-15)


@pytest.mark.parametrize('beta', [1e-9, 1e-4, 1 - 1e-4, 1 - 1e-9])
def test_jsd_near_the_ends_is_finite_without_overlap(beta):
    student, teacher = torch.full((2, 5), -1e4), torch.full((2, 5), -1e4)
    student[:, 0], teacher[:, 1] = 1e4, 1e4
    student.requires_grad_()
    value = generalized_jsd(student, teacher, beta)
    value.backward()
    assert value.item() == pytest.approx(-beta * math.log(beta) - (1 - beta) * math.log1p(-beta), rel=1e-4, abs=1e-7)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('loss', [reverse_kl, generalized_jsd, soft_cross_entropy])
def test_a_retained_graph_gives_the_gradient_twice(loss):
    student, teacher = torch.randn(BIG).requires_grad_(), torch.randn(BIG)
    value = loss(student, teacher)
    (first,) = torch.autograd.grad(value, student, retain_graph=True)
    first = first.clone()
    torch.testing.assert_close(torch.autograd.grad(value, student)[0], first, rtol=0, atol=0)


@pytest.mark.parametrize('loss', [reverse_kl, generalized_jsd, soft_cross_entropy])
def test_gradients_of_float16_survive_until_they_are_scaled(loss):
    teacher = torch.randn(4, 2**15)
    student = (teacher + 0.05 * torch.randn(4, 2**15)).half().requires_grad_()
    (loss(student, teacher.half()) * 65536.0).backward()
    exact = student.detach().double().requires_grad_()
    (loss(exact, teacher.half().double()) * 65536.0).backward()
    assert (student.grad.double() - exact.grad).norm() / exact.grad.norm() < 1e-3


@pytest.mark.parametrize('loss', [reverse_kl, generalized_jsd, soft_cross_entropy])
def test_no_rows_have_no_loss(loss):
    student = torch.zeros(0, 5, requires_grad=True)
    value = loss(student, torch.zeros(0, 5))
    value.backward()
    assert value.item() == 0.0
