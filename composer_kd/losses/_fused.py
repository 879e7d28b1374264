"""Fused divergences for large vocabularies: one pass over the rows, in chunks that fit into the cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from composer_kd.losses._common import least_logit
from composer_kd.losses._once import once_only

FUSED_FROM = 2**16
"""Number of elements from which the fused pass is faster than the plain expression (see benchmarks/losses.py)."""

_CHUNK = {'cpu': 2**18}  # elements that fit into the cache
_CHUNK_ELSEWHERE = 2**27  # accelerators are fastest with few large kernels
_LN2 = math.log(2.0)
_BELOW_1 = 1.0 - 2.0**-20  # upper bound of a share x that keeps log(1 - x) finite, also in float32
_LEAST = 1e-30  # lower bound of a probability: negligible in a sum, and safe to divide by
_HIDDEN = 4.0  # the logit of the target is set to this multiple of the least logit: its exponential is 0 in any row


class Tempered(NamedTuple):
    """Logits of the student or the teacher, ``(n, V)``, divided by the temperature, with their exponentials and sums.

    A row loss computes from these tensors and may overwrite them. They use base 2, because ``exp2`` is several times
    faster than ``exp`` on some CPUs and never slower.
    """

    z: Tensor
    """The logits divided by ``T log 2``, shifted to a maximum of 0."""
    e: Tensor
    """``2^z``."""
    total: Tensor
    """The sum of ``e`` over the classes, ``(n, 1)``."""
    target: Tensor
    """The target class, ``(n, 1)``, for losses that treat it separately: its ``z`` is very negative, its ``e`` is 0."""
    own: Tensor
    """The shifted and scaled logit of the target, ``(n, 1)``."""


RowLoss = Callable[[Tempered, Tempered, Tensor, bool], Tensor]
"""``(student, teacher, out, needs_grad)``: returns the loss of each row in nats, ``(n, 1)``. If ``needs_grad``, writes
the negative gradient with respect to ``logits / T`` into ``out``, ``(n, V)``."""


def fused(
    loss: RowLoss,
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    weights: Tensor | None = None,
    target: Tensor | None = None,
) -> Tensor:
    """Computes ``T^2`` times the mean of a row loss, and its gradient in the same pass.

    A second derivative is refused.

    Args:
        loss: A row loss of this module.
        student: Logits ``(N, V)``; any floating dtype, computed in float32 at least.
        teacher: Detached logits of the same shape.
        temperature: ``T``.
        weights: Which rows count, ``(N,)`` booleans; all if ``None``.
        target: The target class of each row, ``(N, 1)``, for losses that treat it separately.

    Returns:
        A scalar in nats times ``T^2``, float32 (float64 for a float64 student).
    """
    return _Fused.apply(student, teacher, loss, float(temperature), weights, target)


class _Fused(torch.autograd.Function):
    """Implements :func:`fused`.

    The plain expression reads ``(N, V)`` a dozen times or more and stores several copies for the backward pass. Here
    the forward pass takes about 32 rows at a time and computes their loss and, while they are in the cache, their
    gradient. The backward pass only scales that gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        loss: RowLoss,
        temperature: float,
        weights: Tensor | None,
        target: Tensor | None,
    ) -> Tensor:
        needs_grad = ctx.needs_input_grad[0]
        value, direction = _walk(loss, student, teacher, temperature, weights, target, needs_grad)
        if needs_grad:
            ctx.save_for_backward(student, teacher, weights, target)
            ctx.loss, ctx.temperature, ctx.direction = loss, temperature, direction
        return value

    @staticmethod
    @once_only(
        'The fused pass of this loss',
        f'kl_divergence, reverse_kl and soft_cross_entropy have one for fewer than {FUSED_FROM} logits; otherwise '
        'write the loss in plain torch.',
    )
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, weights, target = ctx.saved_tensors
        # The stored direction is scaled in place and returned; a second backward pass through a retained graph
        # recomputes it.
        direction, ctx.direction = ctx.direction, None
        if direction is None:
            direction = _walk(ctx.loss, student, teacher, ctx.temperature, weights, target, True)[1]
        direction.mul_(grad_output * (-ctx.temperature / _count(student, weights)))
        return direction.to(student.dtype), None, None, None, None, None


def _count(student: Tensor, weights: Tensor | None) -> Tensor | int:
    """The number of rows that count, at least 1."""
    return max(1, student.shape[0]) if weights is None else weights.sum().clamp(min=1)


def _walk(
    loss: RowLoss,
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    weights: Tensor | None,
    target: Tensor | None,
    needs_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Computes the loss and, if ``needs_grad``, the direction: the negative gradient of the rows' losses.

    The direction has the student's dtype, but float32 for float16 logits: before the factor of a ``GradScaler`` is
    applied, its small values would be lost in float16.
    """
    rows, classes = student.shape
    counts = weights if weights is None else weights.unsqueeze(-1)
    dtype = torch.promote_types(student.dtype, torch.float32)
    step = max(1, min(rows, _CHUNK.get(student.device.type, _CHUNK_ELSEWHERE) // classes))
    values = torch.empty(rows, 1, dtype=dtype, device=student.device)
    kept = dtype if student.dtype == torch.float16 else student.dtype
    direction = torch.empty(rows, classes, dtype=kept, device=student.device) if needs_grad else None
    direct = direction is not None and kept == dtype
    buffers = [torch.empty(step, classes, dtype=dtype, device=student.device) for _ in range(4 if direct else 5)]
    for start in range(0, rows, step):
        here = slice(start, min(start + step, rows))
        z_s, e_s, z_t, e_t, *spare = (buffer[: here.stop - start] for buffer in buffers)
        there = target if target is None else target[here]
        s = _tempered(student[here], temperature, z_s, e_s, there)
        t = _tempered(teacher[here], temperature, z_t, e_t, there)
        out = spare[0] if spare else direction[here]  # type: ignore[index]
        values[here] = loss(s, t, out, needs_grad)
        if direction is not None:
            if counts is not None:
                out.mul_(counts[here])
            if not direct:
                direction[here] = out
    if counts is not None:
        values = torch.where(counts, values, 0.0)
    return values.sum() * (temperature * temperature / _count(student, weights)), direction


def _tempered(logits: Tensor, temperature: float, z: Tensor, e: Tensor, target: Tensor | None) -> Tempered:
    """Fills the buffers ``z`` and ``e``, and returns them with their sums."""
    scale = 1.0 / (temperature * _LN2)
    least = least_logit(temperature)
    if logits.dtype == z.dtype:
        torch.clamp(logits, min=least, out=z)
    else:
        z.copy_(logits).clamp_(min=least)
    own = None
    if target is not None:
        own = z.gather(-1, target)
        z.scatter_(-1, target, _HIDDEN * least)
    top = z.amax(-1, keepdim=True)
    z.sub_(top).mul_(scale)  # in this order: exactly 0 at the top, also in a row of excluded classes alone
    total = torch.exp2(z, out=e).sum(-1, keepdim=True)
    if target is None or own is None:
        return Tempered(z, e, total, top, top)
    return Tempered(z, e, total, target, (own - top) * scale)


def forward_kl(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
    """Computes ``sum p_t (log p_t - log p_s)`` with ``log p = z log 2 - log total``."""
    p_t = t.e.div_(t.total)
    if needs_grad:
        torch.addcmul(p_t, s.e, s.total.reciprocal(), value=-1.0, out=out)
    return _dot(t.z.sub_(s.z), p_t).mul_(_LN2) + (s.total / t.total).log_()


def cross_entropy(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
    """Computes ``-sum p_t log p_s``, whose gradient equals that of :func:`forward_kl`."""
    p_t = t.e.div_(t.total)
    if needs_grad:
        torch.addcmul(p_t, s.e, s.total.reciprocal(), value=-1.0, out=out)
    return s.total.log() - _dot(s.z, p_t).mul_(_LN2)


def reverse_kl(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
    """Computes ``sum p_s (log p_s - log p_t)``.

    The negative gradient is ``terms - p_s * sum(terms)`` with ``terms = p_s (log p_t - log p_s)``.
    """
    p_s = s.e.mul_(_LN2 / s.total)  # times log 2
    terms = t.z.sub_(s.z).mul_(p_s)
    total = terms.sum(-1, keepdim=True)
    if needs_grad:
        torch.addcmul(terms, p_s, total * (1.0 / _LN2), value=-1.0, out=out)
    return (t.total / s.total).log_().sub_(total)


def mixture(beta: float) -> RowLoss:
    """Returns the row loss ``beta KL(p_t || m) + (1 - beta) KL(p_s || m)`` with ``m = beta p_t + (1 - beta) p_s``."""

    def loss(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
        # Both distributions are scaled by the teacher's total and clamped above 0, so that all logarithms are finite.
        # log(m / p) is log1p of the scaled difference over p: exact where the two distributions are close.
        p_t, p_s = t.e.clamp_min_(_LEAST), s.e.mul_(t.total / s.total).clamp_min_(_LEAST)
        apart = torch.sub(p_s, p_t, out=out).mul_(min(1.0 - beta, _BELOW_1))
        less_t = torch.div(apart, p_t, out=t.z).log1p_()
        less_s = torch.div(apart, p_s, out=s.z).mul_(-beta / max(1.0 - beta, 1.0 - _BELOW_1)).log1p_()
        terms = less_s.mul_(p_s)
        total = terms.sum(-1, keepdim=True)
        if needs_grad:  # terms - p_s * sum(terms)
            torch.addcmul(terms, p_s, total / t.total, value=-1.0, out=out).mul_((1.0 - beta) / t.total)
        return total.mul_(beta - 1.0).sub_(_dot(less_t, p_t), alpha=beta).div_(t.total)

    return loss


def parted_kl(alpha: float, beta: float) -> RowLoss:
    """Returns the row loss ``alpha KL(b_t || b_s) + beta KL(q_t || q_s)``.

    ``b`` is the binary distribution (target, all other classes), and ``q`` the softmax over the other classes.
    """

    def loss(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
        # Two numbers per row, in float64: the terms cancel, and logarithms in float32 are too coarse for that.
        exact = torch.float32 if out.device.type == 'mps' else torch.float64
        log_b_s, log_b_t = (_against_rest(side, exact) for side in (s, t))
        b_t = log_b_t.exp()
        log_ratio = _log_ratio(s, t, out)
        q_t = t.e.mul_(beta / t.total)
        if needs_grad:
            _parted_direction(s, q_t, beta, (log_b_s[:, :1].exp() - b_t[:, :1]).mul_(alpha).to(out.dtype), out)
        of_others = _dot(t.z.sub_(s.z), q_t).mul_(_LN2).add_(log_ratio, alpha=beta)
        return of_others.add_(_dot(log_b_t.sub_(log_b_s), b_t), alpha=alpha)

    return loss


def parted_cross_entropy(alpha: float, beta: float) -> RowLoss:
    """Returns the row loss ``-alpha p_t log p_s`` (target) ``- beta sum q_t log q_s`` (softmax over other classes)."""

    def loss(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
        log_b_s, log_b_t = (_against_rest(side, out.dtype) for side in (s, t))
        p_t = log_b_t[:, :1].exp().mul_(-alpha)
        q_t = t.e.mul_(beta / t.total)
        if needs_grad:
            _parted_direction(s, q_t, beta, log_b_s[:, 1:].exp().mul_(p_t), out)
        of_others = _dot(s.z, q_t).mul_(-_LN2).add_(s.total.log(), alpha=beta)
        return of_others.addcmul_(p_t, log_b_s[:, :1])

    return loss


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Computes the dot product of each row, ``(n, 1)``, in place: ``a`` is overwritten."""
    return a.mul_(b).sum(-1, keepdim=True)


def _log_ratio(s: Tempered, t: Tempered, spare: Tensor) -> Tensor:
    """Computes ``log(s.total / t.total)``; where the two are close, with ``log1p`` of the difference, for accuracy."""
    apart = torch.sub(s.e, t.e, out=spare).sum(-1, keepdim=True) / t.total
    return torch.where(apart.abs() < 0.5, apart.log1p(), (s.total / t.total).log_())


def _against_rest(side: Tempered, dtype: torch.dtype) -> Tensor:
    """Log-probabilities of the target and of all other classes together, ``(n, 2)``, accurate where one is tiny."""
    return torch.cat([side.own.to(dtype), side.total.to(dtype).log2()], dim=-1).mul_(_LN2).log_softmax(-1)


def _parted_direction(s: Tempered, q_t: Tensor, beta: float, of_target: Tensor, out: Tensor) -> None:
    """Writes the negative gradient of a row loss with a separate target class into ``out``, ``(n, V)``.

    ``q_t`` is ``beta`` times the teacher's softmax over the other classes, and ``of_target``, ``(n, 1)``, the gradient
    with respect to the target's logit.
    """
    torch.addcmul(q_t, s.e, (beta - of_target).div_(s.total), value=-1.0, out=out)
    out.scatter_(-1, s.target, of_target.neg_())
