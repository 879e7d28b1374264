"""Row losses of the fused pass for the divergences of language models, with gradients in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from composer_kd.losses._fused import _LEAST, _LN2, RowLoss, Tempered

__all__ = ['adaptive_kl', 'alpha_beta', 'skewed_kl', 'skewed_reverse_kl', 'total_variation']


def skewed_kl(alpha: float) -> RowLoss:
    """Returns the row loss ``KL(p_t || m)`` with ``m = alpha p_t + (1 - alpha) p_s``."""

    def loss(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
        p_t, p_s = _on_one_scale(s, t)
        apart = torch.sub(p_s, p_t, out=out).mul_(1.0 - alpha).div_(p_t)  # m / p_t - 1
        value = torch.log1p(apart, out=t.z).mul_(p_t).sum(-1, keepdim=True).div_(t.total).neg_()
        if needs_grad:
            terms = apart.add_(1.0).reciprocal_().mul_(p_s)
            total = terms.sum(-1, keepdim=True)
            torch.addcmul(terms, p_s, total / t.total, value=-1.0, out=out).mul_((1.0 - alpha) / t.total)
        return value.clamp_min_(0.0)

    return loss


def skewed_reverse_kl(alpha: float) -> RowLoss:
    """Returns the row loss ``KL(p_s || m)`` with ``m = (1 - alpha) p_t + alpha p_s``."""

    def loss(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
        p_t, p_s = _on_one_scale(s, t)
        apart = torch.sub(p_t, p_s, out=out).mul_(1.0 - alpha).div_(p_s)  # m / p_s - 1
        less = torch.log1p(apart, out=t.z)
        value = torch.mul(less, p_s, out=s.z).sum(-1, keepdim=True).div_(t.total).neg_()
        if needs_grad:
            terms = apart.add_(1.0).reciprocal_().mul_(alpha).add_(less).mul_(p_s)
            total = terms.sum(-1, keepdim=True)
            torch.addcmul(terms, p_s, total / t.total, value=-1.0, out=out).div_(t.total)
        return value.clamp_min_(0.0)

    return loss


def total_variation(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
    """Computes half the sum of ``|p_t - p_s|``."""
    p_t, p_s = t.e.div_(t.total), s.e.div_(s.total)
    apart = p_t.sub_(p_s)
    if needs_grad:
        terms = torch.sign(apart, out=out).mul_(p_s)
        torch.addcmul(terms, p_s, terms.sum(-1, keepdim=True), value=-1.0, out=out).mul_(0.5)
    return apart.abs_().sum(-1, keepdim=True).mul_(0.5)


def adaptive_kl(head: float) -> RowLoss:
    """Returns the row loss ``share KL(p_t || p_s) + (1 - share) KL(p_s || p_t)``.

    ``share`` is how much of ``|p_t - p_s|`` lies in the head of the teacher's distribution: its most probable classes,
    as many as it takes to have the probability ``head`` together. No gradient passes through it.
    """

    def loss(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
        log_ratio = t.z.sub_(s.z).mul_(_LN2).add_((s.total / t.total).log_())
        p_t, p_s = t.e.div_(t.total), s.e.div_(s.total)
        share = _share_of_head(p_t, p_s, head)
        forward = torch.mul(p_t, log_ratio, out=s.z).sum(-1, keepdim=True)
        terms = log_ratio.mul_(p_s)
        backward = terms.sum(-1, keepdim=True)  # minus the reverse divergence
        if needs_grad:
            torch.sub(p_t, p_s, out=out).mul_(share)
            out.add_(terms.addcmul_(p_s, backward, value=-1.0).mul_(1.0 - share))
        return forward.mul_(share).sub_(backward.mul_(1.0 - share)).clamp_min_(0.0)

    return loss


def alpha_beta(alpha: float, beta: float) -> RowLoss:
    """Returns the row loss of the alpha-beta divergence of ``p_t`` and ``p_s``, for parameters of 0 or more.

    With ``D_x(a, b) = (a^x - b^x) / x``, whose limit at 0 is ``log a / b``, the divergence is the sum over the classes
    of ``(D_(alpha + beta)(p_s, p_t) - p_t^alpha D_beta(p_s, p_t)) / alpha``. It stays the same if both the parameters
    and the distributions change places; so the larger parameter is the one that divides, and no limit is special.
    """

    def loss(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
        log_s, log_t = (side.z.mul_(_LN2).sub_(side.total.log()) for side in (s, t))
        if needs_grad:
            terms = _difference_of_powers(log_s, log_t, alpha).mul_(_power(log_s, beta))
            torch.addcmul(terms.neg_(), s.e.div_(s.total), terms.sum(-1, keepdim=True), value=-1.0, out=out)
        large, small, of_large, of_small = (alpha, beta, log_t, log_s) if alpha >= beta else (beta, alpha, log_s, log_t)
        values = _difference_of_powers(of_small, of_large, large + small)
        values.addcmul_(_power(of_large, large), _difference_of_powers(of_small, of_large, small), value=-1.0)
        return values.clamp_min_(0.0).sum(-1, keepdim=True).div_(large)  # each class's part is at least 0

    return loss


def _on_one_scale(s: Tempered, t: Tempered) -> tuple[Tensor, Tensor]:
    """Both distributions times the teacher's total, bounded below so that all their ratios are finite."""
    return t.e.clamp_min_(_LEAST), s.e.mul_(t.total / s.total).clamp_min_(_LEAST)


def _share_of_head(p_t: Tensor, p_s: Tensor, head: float) -> Tensor:
    ranked, order = p_t.sort(dim=-1, descending=True, stable=True)
    apart = (p_t - p_s).abs_().gather(-1, order)
    total = apart.sum(-1, keepdim=True)
    in_head = ranked.cumsum(-1).sub_(ranked) < head  # what comes before has less than that
    return torch.where(total > 0.0, apart.mul_(in_head).sum(-1, keepdim=True) / total, 0.5)


def _power(log: Tensor, exponent: float) -> Tensor:
    return (log * exponent).exp_()


def _difference_of_powers(log_a: Tensor, log_b: Tensor, exponent: float) -> Tensor:
    """``(a^x - b^x) / x``, accurate where the two are close, and finite where one of them is 0."""
    apart = log_a - log_b
    if exponent == 0.0:
        return apart
    size = torch.expm1(apart.abs().mul_(-exponent)).mul_(_power(torch.maximum(log_a, log_b), exponent))
    return size.mul_(apart.sign_()).div_(-exponent)
