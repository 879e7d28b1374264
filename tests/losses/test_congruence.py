import math

import pytest
import torch

from composer_kd.losses import KernelCongruence, correlation_congruence, kernel_congruence

STUDENT, TEACHER = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0], [4.0]])  # products 0, and 1


def random(batch=5, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, width, generator=generator, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize(('gamma', 'order'), [(0.4, 2), (0.4, 1), (1.5, 5)])
def test_by_hand(gamma, order):
    apart = math.exp(-2 * gamma) * sum((2 * gamma) ** p / math.factorial(p) for p in range(1, order + 1))
    assert kernel_congruence(STUDENT, TEACHER, gamma, order).item() == pytest.approx(apart**2 / 2, rel=1e-6)


def test_a_high_order_is_the_gaussian_kernel():
    student, teacher = random()
    kernels = []
    for side in (student, teacher):
        units = side / side.norm(dim=1, keepdim=True)
        kernels.append(torch.exp(-0.7 * torch.cdist(units, units).square()))
    expected = (kernels[0] - kernels[1]).square().mean().item()
    assert kernel_congruence(student, teacher, gamma=0.7, order=20).item() == pytest.approx(expected, rel=1e-9)
    assert kernel_congruence(student, teacher, gamma=0.7, order=2).item() != pytest.approx(expected, rel=1e-3)


def test_it_compares_all_samples_in_any_order_and_at_any_length():
    student, teacher = random()
    value = kernel_congruence(student, teacher)
    order = torch.randperm(5)
    assert kernel_congruence(student[order], teacher[order]).item() == pytest.approx(value.item(), rel=1e-12)
    assert kernel_congruence(7 * student, teacher / 9).item() == pytest.approx(value.item(), rel=1e-12)
    assert correlation_congruence(7 * student, teacher).item() != pytest.approx(
        correlation_congruence(student, teacher).item()
    )


def test_its_settings_are_read_when_it_is_called():
    student, teacher = random()
    loss = KernelCongruence()
    assert loss(student, teacher) == kernel_congruence(student, teacher)
    loss.gamma, loss.order = 1.0, 3
    assert loss(student, teacher) == kernel_congruence(student, teacher, 1.0, 3)


@pytest.mark.parametrize('gamma', [0.0, -1.0, math.nan, math.inf])
def test_bad_gamma(gamma):
    for make in (lambda: KernelCongruence(gamma), lambda: kernel_congruence(STUDENT, TEACHER, gamma)):
        with pytest.raises(ValueError, match=r'(KernelCongruence|kernel_congruence): gamma must be a positive finite'):
            make()


@pytest.mark.parametrize('order', [0, -1, 2.0, True, '2'])
def test_bad_order(order):
    for make in (lambda: KernelCongruence(order=order), lambda: kernel_congruence(STUDENT, TEACHER, order=order)):
        with pytest.raises(ValueError, match=r'(KernelCongruence|kernel_congruence): order must be a positive int'):
            make()


def test_bad_batches():
    with pytest.raises(ValueError, match=r'kernel_congruence compares .*batch of at least 2, got 1.*drop_last'):
        kernel_congruence(STUDENT[:1], TEACHER[:1])
    with pytest.raises(ValueError, match=r'kernel_congruence: .*student \(2, 2\) and teacher \(1, 1\)'):
        kernel_congruence(STUDENT, TEACHER[:1])


def test_it_reads_pooled_features():
    maps = torch.randn(4, 5, 3, 3)
    assert torch.equal(kernel_congruence.summary(maps), maps.mean((2, 3)))
    assert KernelCongruence().summary is kernel_congruence.summary
