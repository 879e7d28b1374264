"""Logit standardisation: logits are compared after their scale and shift are removed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from composer_kd.losses._common import LEAST_LOGIT, at_least_float32, bounded, check_tensors
from composer_kd.losses._once import once_only
from composer_kd.losses.kl import KLDivergence

__all__ = ['LogitStandardization', 'standardize']

EPS = 1e-7
EXCLUDED = torch.finfo(torch.float16).min  # -65504; logits up to here exclude a class, in any dtype
NOISE = 8.0  # times the dtype's epsilon and the mean: largest deviation that rounding causes in a constant row


def standardize(logits: Tensor, dim: int = -1) -> Tensor:
    r"""Computes the z-scores of logits: mean 0 and standard deviation 1 over the classes.

    Sun et al., *Logit Standardization in Knowledge Distillation* (arXiv 2403.01427), with the unbiased deviation and
    the epsilon of the authors' code:

    .. math:: \frac{z - \mathrm{mean}(z)}{\mathrm{std}(z) + 10^{-7}}

    Classes may be excluded by logits of at most -65504 (``torch.finfo(dtype).min`` of any dtype, minus infinity). They
    count neither in the mean nor in the deviation, and become -1e30 without a gradient, so that the loss on
    standardised logits leaves them out too.

    Args:
        logits: ``(..., V, ...)``, at least two classes; any floating dtype, computed in float32 at least.
        dim: The dimension of the classes.

    Returns:
        A float32 tensor (float64 for float64 logits) of the same shape. A row whose deviation is at most 1e-7, or at
        most the rounding error of a constant row, becomes zeros without a gradient. A second derivative is refused.

    Raises:
        ValueError: If there is only one class.

    Example:
        >>> import torch
        >>> standardize(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[-1.0000,  0.0000,  1.0000]])
    """
    if logits.shape[dim] < 2:
        raise ValueError(f'standardize: expected at least 2 classes in dimension {dim}, got {tuple(logits.shape)}')
    return _ZScores.apply(bounded(at_least_float32(logits)), dim)


class _ZScores(torch.autograd.Function):
    """Implements :func:`standardize`; the gradient in closed form takes half as many passes as with autograd."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, dim: int) -> Tensor:
        exists = _exists(logits, dim)
        number = exists.sum(dim, keepdim=True, dtype=logits.dtype)
        mean = logits.where(exists, 0.0).sum(dim, keepdim=True).div_(number)
        scores = (logits - mean).masked_fill_(~exists, 0.0)
        deviation = torch.linalg.vector_norm(scores, dim=dim, keepdim=True).div_((number - 1.0).clamp_(min=1.0).sqrt_())
        constant = deviation <= mean.abs_().mul_(NOISE * torch.finfo(scores.dtype).eps).clamp_(min=EPS)
        deviation.masked_fill_(constant, math.inf)  # makes scores and gradient 0
        scores.div_(deviation + EPS).masked_fill_(~exists, LEAST_LOGIT)
        ctx.save_for_backward(scores, deviation, number)
        ctx.dim = dim
        return scores

    @staticmethod
    @once_only('standardize', 'Compute the mean and the deviation of the logits in plain torch.')
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        scores, deviation, number = ctx.saved_tensors
        exists = scores > LEAST_LOGIT
        grad, scores = (x.where(exists, 0.0) for x in (grad, scores))
        along = (grad * scores).sum(ctx.dim, keepdim=True).div_(deviation * (number - 1.0).clamp_(min=1.0))
        centred = grad - grad.sum(ctx.dim, keepdim=True).div_(number)
        return centred.div_(deviation + EPS).addcmul_(scores, along, value=-1.0).masked_fill_(~exists, 0.0), None


def _exists(logits: Tensor, dim: int) -> Tensor:
    """Which classes count; all of them in a row of excluded classes alone, which then is constant."""
    exists = logits > EXCLUDED
    return exists | ~exists.any(dim, keepdim=True)


class LogitStandardization(nn.Module):
    """Applies :func:`standardize` to the logits of student and teacher, then a loss.

    The student then need not match scale and shift of the teacher's logits. The paper (arXiv 2403.01427) uses KL with
    temperature 2 and weight 9, because standardised logits are small and so is the loss.

    Args:
        loss: The loss on the standardised logits; KL with temperature 2 if ``None``. It receives labels or mask if its
            signature has them.

    Attributes:
        wrapped: The loss. Inspect its signature, instead of this module's, for the arguments that it takes.

    Raises:
        ValueError: If the loss is not callable.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[1.0, 0.0, 4.0], [0.0, 3.0, 1.0]])
        >>> loss = LogitStandardization()
        >>> round(loss(5 * logits + 1, logits).item(), 6)
        0.0
        >>> loss.temperature
        2.0
    """

    def __init__(self, loss: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        if loss is not None and not callable(loss):
            raise ValueError(f'LogitStandardization: expected a callable (student, teacher) -> scalar, got {loss!r}')
        self.wrapped: Any = KLDivergence(temperature=2.0) if loss is None else loss

    @property
    def temperature(self) -> float:
        """The temperature of the wrapped loss; it can be set, for example by a schedule."""
        return self.wrapped.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.wrapped.temperature = value

    @property
    def softmax_dim(self) -> int:
        """The dimension of the classes, taken from the wrapped loss."""
        return getattr(self.wrapped, 'softmax_dim', -1)

    @property
    def any_classes(self) -> bool:
        """Whether the wrapped loss allows student and teacher to have different classes."""
        return getattr(self.wrapped, 'any_classes', False)

    def forward(self, student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
        """Computes the wrapped loss of the standardised logits.

        Args:
            student: Logits ``(..., V, ...)``; any floating dtype.
            teacher: Logits of the same shape. No gradient reaches them.
            options: Further arguments of the wrapped loss: labels, mask.

        Returns:
            The value of the wrapped loss, with its dtype, reduction and scale.
        """
        check_tensors('LogitStandardization', student, teacher)
        dim = self.softmax_dim
        return self.wrapped(standardize(student, dim), standardize(teacher.detach(), dim), **options)
