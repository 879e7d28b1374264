import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import entropy

from composer_kd import KLDivergence, kl_divergence
from composer_kd.losses._fused import FUSED_FROM, forward_kl, fused
from composer_kd.losses.kl import plain_kl


def reference(student, teacher, temperature):
    """Row by row in float64 with scipy's relative entropy."""
    student, teacher = student.double().numpy(), teacher.double().numpy()
    rows = [
        entropy(np.exp(log_softmax(t / temperature)), np.exp(log_softmax(s / temperature)))
        for s, t in zip(student, teacher)
    ]
    return temperature**2 * sum(rows) / len(rows)


BIG = (40, 1 + FUSED_FROM // 32)  # large enough for the fused pass
SMALL = (7, 5)


@pytest.mark.parametrize('shape', [SMALL, BIG], ids=['plain', 'fused'])
@pytest.mark.parametrize('temperature', [1.0, 4.0, 0.5])
def test_agrees_with_scipy(shape, temperature):
    student, teacher = torch.randn(shape) * 3, torch.randn(shape) * 3
    expected = reference(student, teacher, temperature)
    assert kl_divergence(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-6)


def test_worked_by_hand():
    # p_t = (1/4, 3/4), p_s = (1/2, 1/2): 1/4 log 1/2 + 3/4 log 3/2
    student, teacher = torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]).log()
    by_hand = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert kl_divergence(student, teacher, temperature=1.0).item() == pytest.approx(by_hand, rel=1e-6)
    # not the other way round
    assert kl_divergence(teacher, student, temperature=1.0).item() != pytest.approx(by_hand, rel=1e-2)


@pytest.mark.parametrize('shape', [SMALL, BIG], ids=['plain', 'fused'])
def test_zero_and_flat_at_equality(shape):
    student = torch.randn(shape).requires_grad_()
    loss = kl_divergence(student, student.detach().clone())
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert student.grad.abs().max() < 1e-7


@pytest.mark.parametrize('shape', [SMALL, BIG], ids=['plain', 'fused'])
def test_gradient_agrees_with_the_formula_and_spares_the_teacher(shape):
    student, teacher = torch.randn(shape).requires_grad_(), torch.randn(shape).requires_grad_()
    (3.0 * kl_divergence(student, teacher, 2.0)).backward()  # a factor, as microbatches and scalers bring
    expected = 3.0 * 2.0 / shape[0] * (F.softmax(student / 2, -1) - F.softmax(teacher / 2, -1))
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-5, atol=1e-8)


def test_fused_equals_plain_to_1e_6():
    student, teacher = torch.randn(BIG), torch.randn(BIG)
    plain = (
        F.kl_div(F.log_softmax(student / 4, -1), F.log_softmax(teacher / 4, -1), log_target=True, reduction='batchmean')
        * 16
    )
    assert kl_divergence(student, teacher, 4.0).item() == pytest.approx(plain.item(), rel=1e-6, abs=1e-6)


def test_fused_survives_a_retained_graph():
    student, teacher = torch.randn(BIG).requires_grad_(), torch.randn(BIG)
    loss = kl_divergence(student, teacher)
    loss.backward(retain_graph=True)
    first, student.grad = student.grad.clone(), None
    loss.backward()
    torch.testing.assert_close(student.grad, first)


def test_fused_gradcheck_in_float64():
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: fused(forward_kl, s, teacher, 2.0, None), (student,))
    kept = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(lambda s: fused(forward_kl, s, teacher, 2.0, kept), (student,))


def test_plain_gradcheck_in_float64():
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: kl_divergence(s, teacher, 2.0), (student,))


@pytest.mark.parametrize('shape', [SMALL, BIG], ids=['plain', 'fused'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(shape, dtype):
    student, teacher = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    student.requires_grad_()
    loss = kl_divergence(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    assert student.grad.dtype == dtype
    exact = kl_divergence(student.detach().float(), teacher.float())
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


def test_fused_gradients_of_float16_survive_until_they_are_scaled():
    """A GradScaler multiplies by 2^16 what would be too small for float16."""
    teacher = torch.randn(4, 2**15)
    student = (teacher + 0.05 * torch.randn(4, 2**15)).half().requires_grad_()
    (kl_divergence(student, teacher.half()) * 65536.0).backward()
    exact = student.detach().double().requires_grad_()
    (kl_divergence(exact, teacher.half().double()) * 65536.0).backward()
    error = (student.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert error < 1e-3


@pytest.mark.parametrize('shape', [SMALL, BIG], ids=['plain', 'fused'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_finite_at_extreme_logits(shape, dtype):
    student, teacher = (torch.randn(shape) * 1e4).to(dtype).requires_grad_(), (torch.randn(shape) * -1e4).to(dtype)
    loss = kl_divergence(student, teacher, 1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_mean_over_positions_does_not_grow_with_the_length():
    student, teacher = torch.randn(2, 5, 9), torch.randn(2, 5, 9)
    once = kl_divergence(student, teacher)
    twice = kl_divergence(torch.cat([student, student], 1), torch.cat([teacher, teacher], 1))
    assert once.item() == pytest.approx(twice.item(), rel=1e-6)
    assert once.item() == pytest.approx(reference(student.flatten(0, 1), teacher.flatten(0, 1), 4.0), rel=1e-6)


def test_softmax_dim_of_segmentation():
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    rows = [logits.permute(0, 2, 3, 1).reshape(-1, 5) for logits in (student, teacher)]
    loss = KLDivergence(temperature=2.0, softmax_dim=1)(student, teacher)
    assert loss.item() == pytest.approx(reference(*rows, 2.0), rel=1e-6)


@pytest.mark.parametrize('shape', [SMALL, BIG], ids=['plain', 'fused'])
def test_masked_rows_never_count(shape):
    student, teacher = torch.randn(shape).requires_grad_(), torch.randn(shape)
    mask = torch.arange(shape[0]) % 3 != 0
    loss = kl_divergence(student, teacher, 4.0, mask=mask)
    loss.backward()
    assert loss.item() == pytest.approx(reference(student.detach()[mask], teacher[mask], 4.0), rel=1e-6)
    assert (student.grad[~mask] == 0).all()
    assert (student.grad[mask] != 0).any()
    assert kl_divergence(student, teacher, mask=torch.zeros_like(mask)).item() == 0.0


@pytest.mark.parametrize('weigh', [partial(fused, forward_kl), plain_kl], ids=['fused', 'plain'])
def test_weights_do_what_selection_does(weigh):
    """On accelerators masked rows are weighed, not selected: the same value and gradient."""
    student, teacher = torch.randn(9, 6).requires_grad_(), torch.randn(9, 6)
    mask = torch.arange(9) % 2 == 0
    weighed = weigh(student, teacher, 4.0, mask)
    (grad,) = torch.autograd.grad(weighed, student)
    selected = kl_divergence(student, teacher, 4.0, mask=mask)
    (expected,) = torch.autograd.grad(selected, student)
    torch.testing.assert_close(weighed, selected)
    torch.testing.assert_close(grad, expected)
    assert weigh(student, teacher, 4.0, torch.zeros(9, dtype=torch.bool)).item() == 0.0
    spoilt = torch.where(mask[:, None], teacher, math.inf)  # 0 times infinity would be no number
    torch.testing.assert_close(plain_kl(student, spoilt, 4.0, mask), selected)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 6), classes=st.integers(2, 9), temperature=st.floats(0.25, 20.0), seed=st.integers(0, 10**6))
def test_never_negative_and_blind_to_a_shift(rows, classes, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, classes, generator=generator).double() for _ in range(2))
    loss = kl_divergence(student, teacher, temperature)
    assert loss.item() >= -1e-12
    moved = kl_divergence(student + 3.0, teacher - 7.0, temperature)
    assert loss.item() == pytest.approx(moved.item(), rel=1e-9, abs=1e-12)
    doubled = kl_divergence(student.repeat(2, 1), teacher.repeat(2, 1), temperature)
    assert loss.item() == pytest.approx(doubled.item(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize('temperature', [0.0, -1.0, float('nan'), float('inf'), '4', True])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match='temperature must be a positive finite number'):
        KLDivergence(temperature=temperature)


def test_bad_shapes_and_dim():
    with pytest.raises(ValueError, match=r'student \(2, 3\) and teacher \(2, 4\)'):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match='softmax_dim'):
        KLDivergence(softmax_dim='last')


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_a_mask_without_positions_gives_a_zero_in_the_dtype_of_all_other_values(dtype):
    student, teacher = (torch.randn(3, 5, dtype=dtype) for _ in range(2))
    nothing = kl_divergence(student, teacher, mask=torch.zeros(3, dtype=torch.bool))
    assert nothing == 0
    assert nothing.dtype == kl_divergence(student, teacher).dtype
