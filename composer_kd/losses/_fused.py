"""Divergences over large vocabularies: one pass over rows, in chunks that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FUSED_FROM = 2**16
"""Elements from which the fused pass is quicker than the plain expression (measured by benchmarks/losses.py)."""

_CHUNK = {'cpu': 2**18}  # elements that stay in the cache
_CHUNK_ELSEWHERE = 2**27  # an accelerator wants few large kernels
_LN2 = math.log(2.0)
_BELOW_1 = 1.0 - 2.0**-20  # a share whose complement has a logarithm, after rounding to float32 too
_LEAST = 1e-30  # of a share: small enough not to be seen, and to be divided by
_HIDDEN = -1e20  # the logit of a class that counts as absent: its exponential is 0, and 0 times it is no NaN


class Tempered(NamedTuple):
    """The logits of one side, ``(n, V)``, over the temperature: what a row loss is computed from, and may overwrite.

    Base 2 because ``exp2`` is several times quicker than ``exp`` on some CPUs, and never slower.
    """

    z: Tensor
    """The logits over ``T log 2``, shifted to a maximum of 0."""
    e: Tensor
    """``2^z``."""
    total: Tensor
    """The sum of ``e`` over the classes, ``(n, 1)``."""
    target: Tensor
    """The class apart from the others, ``(n, 1)``, for losses that have one: hidden in ``z``, 0 in ``e``."""
    own: Tensor
    """The ``z`` that the target would have, ``(n, 1)``."""


RowLoss = Callable[[Tempered, Tempered, Tensor, bool], Tensor]
"""``(student, teacher, out, needs_grad)``: gives the loss of each row in nats, ``(n, 1)``. If ``needs_grad``, leaves in
``out``, ``(n, V)``, the direction in which the loss falls: its gradient by the logits over ``T``, negated."""


def fused(
    loss: RowLoss,
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    weights: Tensor | None = None,
    target: Tensor | None = None,
) -> Tensor:
    """``T^2`` times the mean of a row loss, with its gradient computed on the way. It has no second derivative.

    Args:
        loss: One of this module's.
        student: Logits ``(N, V)`` of any floating dtype, computed in float32 at least.
        teacher: The same shape, without a graph.
        temperature: ``T``.
        weights: Which rows count, ``(N,)`` booleans; all if ``None``.
        target: A class for each row, ``(N, 1)``, for losses that set it apart.
    """
    return _Fused.apply(student, teacher, loss, float(temperature), weights, target)


class _Fused(torch.autograd.Function):
    """See :func:`fused`.

    A plain expression walks over ``(N, V)`` a dozen times or more and keeps several copies for the backward pass. Here
    the forward pass takes 32 rows or so at a time, computes their loss and, while they are in the cache, their
    gradient, which is all that the backward pass needs.
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
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, weights, target = ctx.saved_tensors
        # The stored direction is scaled in place and handed over; a second backward pass through a retained graph
        # computes it again.
        direction, ctx.direction = ctx.direction, None
        if direction is None:
            direction = _walk(ctx.loss, student, teacher, ctx.temperature, weights, target, True)[1]
        direction.mul_(grad_output * (-ctx.temperature / _count(student, weights)))
        return direction.to(student.dtype), None, None, None, None, None


def _count(student: Tensor, weights: Tensor | None) -> Tensor | int:
    """How many rows count; at least one."""
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
    """The loss and, if wanted, the direction in which it falls.

    Its dtype is the student's, but float32 for float16, whose small values need the factor that a GradScaler brings.
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
    """Fills ``z`` and ``e``."""
    scale = 1.0 / (temperature * _LN2)
    others = logits if target is None else z.copy_(logits).scatter_(-1, target, _HIDDEN)
    top = others.amax(-1, keepdim=True).to(z.dtype)
    own = top if target is None else (logits.gather(-1, target).to(z.dtype) - top) * scale
    torch.add(top * -scale, others, alpha=scale, out=z)
    total = torch.exp2(z, out=e).sum(-1, keepdim=True)
    return Tempered(z, e, total, top if target is None else target, own)


def forward_kl(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
    """``sum p_t (log p_t - log p_s)``, with ``log p = z log 2 - log total``."""
    p_t = t.e.div_(t.total)
    if needs_grad:
        torch.addcmul(p_t, s.e, s.total.reciprocal(), value=-1.0, out=out)
    return _dot(t.z.sub_(s.z), p_t).mul_(_LN2) + (s.total / t.total).log_()


def cross_entropy(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
    """``-sum p_t log p_s``, whose gradient is that of the divergence."""
    p_t = t.e.div_(t.total)
    if needs_grad:
        torch.addcmul(p_t, s.e, s.total.reciprocal(), value=-1.0, out=out)
    return s.total.log() - _dot(s.z, p_t).mul_(_LN2)


def reverse_kl(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
    """``sum p_s (log p_s - log p_t)``, which falls along ``p_s (log p_t - log p_s)`` less its share of the sum."""
    p_s = s.e.mul_(_LN2 / s.total)  # times log 2
    terms = t.z.sub_(s.z).mul_(p_s)
    total = terms.sum(-1, keepdim=True)
    if needs_grad:
        torch.addcmul(terms, p_s, total * (1.0 / _LN2), value=-1.0, out=out)
    return (t.total / s.total).log_().sub_(total)


def mixture(beta: float) -> RowLoss:
    """``beta KL(p_t || m) + (1 - beta) KL(p_s || m)`` with ``m = beta p_t + (1 - beta) p_s``."""

    def loss(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
        # Both sides over the teacher's total and held above 0, where 0 times a finite logarithm is 0. The logarithms of
        # m / p by the sides' difference over p: exact where they are near each other.
        p_t, p_s = t.e.clamp_min_(_LEAST), s.e.mul_(t.total / s.total).clamp_min_(_LEAST)
        apart = torch.sub(p_s, p_t, out=out).mul_(min(1.0 - beta, _BELOW_1))
        less_t = torch.div(apart, p_t, out=t.z).log1p_()
        less_s = torch.div(apart, p_s, out=s.z).mul_(-beta / max(1.0 - beta, 1.0 - _BELOW_1)).log1p_()
        terms = less_s.mul_(p_s)
        total = terms.sum(-1, keepdim=True)
        if needs_grad:  # along these terms less their share of the sum
            torch.addcmul(terms, p_s, total / t.total, value=-1.0, out=out).mul_((1.0 - beta) / t.total)
        return total.mul_(beta - 1.0).sub_(_dot(less_t, p_t), alpha=beta).div_(t.total)

    return loss


def parted_kl(alpha: float, beta: float) -> RowLoss:
    """``alpha KL(b_t || b_s) + beta KL(q_t || q_s)``: the target against the rest, and ``q``, the rest's softmax."""

    def loss(s: Tempered, t: Tempered, out: Tensor, needs_grad: bool) -> Tensor:
        # A few numbers for each row, in float64: in float32 their logarithms are too coarse for what cancels.
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
    """``-alpha p_t log p_s`` of the target ``- beta sum q_t log q_s``, with ``q`` the softmax of the rest."""

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
    """The sum of products over each row, ``(n, 1)``, without a temporary: ``a`` is overwritten."""
    return a.mul_(b).sum(-1, keepdim=True)


def _log_ratio(s: Tempered, t: Tempered, spare: Tensor) -> Tensor:
    """``log(s.total / t.total)``: by the sum of differences, whose rounding is small where the two are near."""
    apart = torch.sub(s.e, t.e, out=spare).sum(-1, keepdim=True) / t.total
    return torch.where(apart.abs() < 0.5, apart.log1p(), (s.total / t.total).log_())


def _against_rest(side: Tempered, dtype: torch.dtype) -> Tensor:
    """Logarithms of the target's probability and that of all others, ``(n, 2)``, exact where either is tiny."""
    return torch.cat([side.own.to(dtype), side.total.to(dtype).log2()], dim=-1).mul_(_LN2).log_softmax(-1)


def _parted_direction(s: Tempered, q_t: Tensor, beta: float, of_target: Tensor, out: Tensor) -> None:
    """Given ``beta`` times the teacher's rest, and the gradient by the target's logit against the rest."""
    torch.addcmul(q_t, s.e, (beta - of_target).div_(s.total), value=-1.0, out=out)
    out.scatter_(-1, s.target, of_target.neg_())
