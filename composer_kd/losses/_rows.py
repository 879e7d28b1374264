"""The divergence over large vocabularies: one pass over rows, in chunks that stay in the cache."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FUSED_FROM = 2**16
"""Elements from which the fused pass is quicker than the plain expression (measured by benchmarks/losses.py)."""

_CHUNK = {'cpu': 2**18}  # elements that stay in the cache
_CHUNK_ELSEWHERE = 2**27  # an accelerator wants few large kernels


class FusedRowKL(torch.autograd.Function):
    """``T^2 * KL(teacher || student)``, mean over the rows of weight one.

    The plain expression walks over ``(N, V)`` about a dozen times and keeps three copies for the backward pass. Here
    the forward pass takes ``64`` rows or so at a time, computes their loss and, while they are in the cache, their
    gradient ``T / N * (softmax(s / T) - softmax(t / T))``, which is all that the backward pass needs.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, weights: Tensor | None) -> Tensor:
        needs_grad = ctx.needs_input_grad[0]
        loss, direction = _walk(student, teacher, temperature, weights, needs_grad)
        if needs_grad:
            ctx.save_for_backward(student, teacher, weights)
            ctx.temperature, ctx.direction = temperature, direction
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None, None]:
        student, teacher, weights = ctx.saved_tensors
        # The stored direction is scaled in place and handed over; a second backward pass through a retained graph
        # computes it again.
        direction, ctx.direction = ctx.direction, None
        if direction is None:
            direction = _walk(student, teacher, ctx.temperature, weights, True)[1]
        direction.mul_(grad_output * (-ctx.temperature / _count(student, weights)))
        return direction.to(student.dtype), None, None, None


def _count(student: Tensor, weights: Tensor | None) -> Tensor | int:
    """How many rows count; at least one."""
    return student.shape[0] if weights is None else weights.sum().clamp(min=1)


def _walk(
    student: Tensor, teacher: Tensor, temperature: float, weights: Tensor | None, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss and, if wanted, the direction ``softmax(t / T) - softmax(s / T)``, in which the gradient points down.

    Its dtype is the student's, but float32 for float16, whose small values need the factor that a GradScaler brings.
    """
    rows, classes = student.shape
    dtype = torch.promote_types(student.dtype, torch.float32)
    step = max(1, _CHUNK.get(student.device.type, _CHUNK_ELSEWHERE) // classes)
    kl = torch.empty(rows, dtype=dtype, device=student.device)
    kept = dtype if student.dtype == torch.float16 else student.dtype
    direction = torch.empty(rows, classes, dtype=kept, device=student.device) if needs_grad else None
    buffers = [torch.empty(min(step, rows), classes, dtype=dtype, device=student.device) for _ in range(4)]
    for start in range(0, rows, step):
        here = slice(start, min(start + step, rows))
        s, exp_s, t, p_t = (buffer[: here.stop - start] for buffer in buffers)
        sum_s = _exponentials(student[here], temperature, s, exp_s)
        sum_t = _exponentials(teacher[here], temperature, t, p_t)
        p_t.div_(sum_t)
        # sum p_t (log p_t - log p_s), with log p = z log 2 - log sum
        kl[here] = torch.linalg.vecdot(p_t, t.sub_(s)) * math.log(2.0) + (sum_s / sum_t).log_().squeeze(-1)
        if direction is not None:
            target = direction[here] if direction.dtype == dtype else s
            torch.addcmul(p_t, exp_s, sum_s.reciprocal_(), value=-1.0, out=target)
            if weights is not None:
                target.mul_(weights[here].unsqueeze(-1))
            if direction.dtype != dtype:
                direction[here] = s
    if weights is not None:
        kl = torch.where(weights, kl, 0.0)
    return kl.sum() * (temperature * temperature / _count(student, weights)), direction


def _exponentials(logits: Tensor, temperature: float, z: Tensor, e: Tensor) -> Tensor:
    """Fills ``z`` with the tempered logits in base 2, shifted to a maximum of 0, and ``e`` with ``2^z``.

    Base 2 because ``exp2`` is several times quicker than ``exp`` on some CPUs, and never slower.

    Returns:
        The sum of ``e`` over the classes.
    """
    scale = 1.0 / (temperature * math.log(2.0))
    top = logits.amax(-1, keepdim=True).to(z.dtype)
    torch.add(top * -scale, logits, alpha=scale, out=z)
    return torch.exp2(z, out=e).sum(-1, keepdim=True)
