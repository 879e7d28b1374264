"""A gradient penalty, as in a training step: a second derivative is right, or an error says that there is none."""

from functools import partial

import pytest
import torch

from composer_kd import losses
from composer_kd.losses._fused import FUSED_FROM

LABELS = torch.arange(64) % 16
ALWAYS = {  # right at any size
    'hint': losses.hint,
    'mse': losses.mse,
    'cosine': losses.cosine,
    'dist': losses.dist,
    'pkt': losses.pkt,
    'kernel_congruence': losses.kernel_congruence,
    'similarity_preserving': losses.similarity_preserving,
    'rkd angles': partial(losses.rkd, distance=0.0),
}
PLAIN_BELOW = {  # right below the size of the fused pass
    'kl_divergence': losses.kl_divergence,
    'reverse_kl': losses.reverse_kl,
    'soft_cross_entropy': losses.soft_cross_entropy,
}
NEVER = {
    'generalized_jsd': losses.generalized_jsd,
    'skewed_kl': losses.skewed_kl,
    'skewed_reverse_kl': losses.skewed_reverse_kl,
    'alpha_beta_divergence': losses.alpha_beta_divergence,
    'adaptive_kl': losses.adaptive_kl,
    'total_variation': losses.total_variation,
    'dkd': partial(losses.dkd, labels=LABELS),
    'nkd': partial(losses.nkd, labels=LABELS),
    'standardised kl': losses.LogitStandardization(),
    'rkd distances': partial(losses.rkd, angle=0.0),
    'CRD': losses.CRD(
        n_samples=200, student_dim=FUSED_FROM // 64, teacher_dim=FUSED_FROM // 64, dim=8, negatives=8
    ).double(),
}
BELOW, ABOVE = FUSED_FROM // 64 - 1, FUSED_FROM // 64


def sides(width):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(64, width, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


def penalty(loss, student, teacher):
    (grad,) = torch.autograd.grad(loss(student, teacher), student, create_graph=True)
    return grad.square().sum()


def holds(loss, width):
    """Whether the gradient of the penalty is that of finite differences along a direction."""
    student, teacher = sides(width)
    (found,) = torch.autograd.grad(penalty(loss, student, teacher), student)
    along = torch.randn(student.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    after, before = (
        penalty(loss, (student.detach() + sign * 1e-5 * along).requires_grad_(), teacher).item() for sign in (1, -1)
    )
    assert (found * along).sum().item() == pytest.approx((after - before) / 2e-5, rel=1e-4)


@pytest.mark.parametrize('width', [BELOW, ABOVE])
@pytest.mark.parametrize('name', ALWAYS)
def test_right_at_any_size(name, width):
    holds(ALWAYS[name], width)


@pytest.mark.parametrize('name', PLAIN_BELOW)
def test_right_below_the_size_of_the_fused_pass_and_refused_above(name):
    holds(PLAIN_BELOW[name], BELOW)
    student, teacher = sides(ABOVE)
    with pytest.raises(RuntimeError, match=r'no second derivative.*create_graph=True.*fewer than 65536 logits'):
        penalty(PLAIN_BELOW[name], student, teacher).backward()


@pytest.mark.parametrize('width', [BELOW, ABOVE])
@pytest.mark.parametrize('name', sorted(set(NEVER) - {'CRD'}))
def test_refused_at_any_size(name, width):
    student, teacher = sides(width)
    with pytest.raises(RuntimeError, match=r'no second derivative|derivative .* is not implemented'):
        penalty(NEVER[name], student, teacher).backward()


def test_crd_of_a_large_memory_refuses():
    student, teacher = sides(ABOVE)
    with pytest.raises(RuntimeError, match=r'CRD with a large memory has no second derivative.*16 times'):
        penalty(partial(NEVER['CRD'], index=torch.arange(64)), student, teacher).backward()


@pytest.mark.parametrize('loss', [*PLAIN_BELOW.values(), NEVER['generalized_jsd'], NEVER['standardised kl']])
def test_a_graph_of_the_gradient_alone_changes_nothing(loss):
    """create_graph=True, as some optimizers ask for, without a second derivative."""
    student, teacher = sides(ABOVE)
    (plain,) = torch.autograd.grad(loss(student, teacher), student)
    (with_graph,) = torch.autograd.grad(loss(student, teacher), student, create_graph=True)
    assert with_graph.requires_grad
    assert torch.equal(plain, with_graph)


@pytest.mark.parametrize('loss', [losses.kl_divergence, losses.standardize])
def test_the_refusal_holds_for_the_factor_of_the_loss_too(loss):
    student, teacher = sides(ABOVE)
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    value = loss(student, teacher) if loss is losses.kl_divergence else loss(student).square().sum()
    (grad,) = torch.autograd.grad(value * factor, student, create_graph=True)
    with pytest.raises(RuntimeError, match='no second derivative'):
        grad.sum().backward()


def test_a_hessian_is_refused():
    with pytest.raises(RuntimeError, match='no second derivative'):
        torch.autograd.functional.hessian(lambda s: losses.generalized_jsd(s, torch.randn(2, 3)), torch.randn(2, 3))
