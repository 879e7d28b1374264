import math

import pytest
import torch
import torch.nn.functional as F

from composer_kd.losses import (
    GeneralizedJSD,
    ReverseKL,
    SoftCrossEntropy,
    generalized_jsd,
    kl_divergence,
    reverse_kl,
    soft_cross_entropy,
)

HALF = torch.zeros(1, 2)  # (1/2, 1/2)
QUARTER = torch.tensor([[1.0, 3.0]]).log()  # (1/4, 3/4)


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
