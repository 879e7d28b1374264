"""Skewed Kullback-Leibler divergences: the second distribution is mixed with a part of the first."""

from __future__ import annotations

from torch import Tensor, nn

from composer_kd.losses import _row_losses
from composer_kd.losses._common import check_number, joins_classes, over_classes
from composer_kd.losses._fused import fused
from composer_kd.losses.divergences import reverse_kl
from composer_kd.losses.kl import kl_divergence, rows_of

__all__ = ['SkewedKL', 'SkewedReverseKL', 'skewed_kl', 'skewed_reverse_kl']

LEAST_SHARE = 1e-3  # below this, the logarithm of the share in float32 is less accurate than the loss


@over_classes
@joins_classes
def skewed_kl(student: Tensor, teacher: Tensor, alpha: float = 0.1, temperature: float = 1.0) -> Tensor:
    r"""Skewed KL divergence KL(teacher || alpha teacher + (1 - alpha) student) of the softened probabilities.

    Ko et al., *DistiLLM: Towards Streamlined Distillation for Large Language Models* (arXiv 2402.03898), with
    :math:`p_t, p_s` the softmax at temperature :math:`T`, and the factor :math:`T^2` of :func:`kl_divergence`:

    .. math:: T^2 \cdot \frac{1}{N} \sum_i \mathrm{KL}\left(p_t \,\Vert\, \alpha p_t + (1 - \alpha) p_s\right)

    Its gradient stays moderate where the student gives almost no probability to a class of the teacher: the loss is at
    most :math:`-T^2 \log \alpha`. At ``alpha=0`` it is :func:`kl_divergence`. The paper has :math:`T = 1`, its code the
    value without the teacher's entropy; the gradients are equal. Usual weight: 1. For ``alpha`` above 0, only first
    derivatives are supported.

    Args:
        student: Logits ``(..., V)``; any floating dtype.
        teacher: Logits of the same shape. No gradient reaches them.
        alpha: The share of the teacher in the mixture: 0, or at least 0.001 and below 1.
        temperature: :math:`T > 0`.

    Returns:
        A float32 scalar (float64 for float64 inputs) in nats times :math:`T^2`, the mean over all dimensions but the
        last; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ, ``alpha`` is out of its bounds (at 1 the loss would be 0 for any student), or
            the temperature is not a positive finite number.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()
        >>> round(skewed_kl(student, teacher, alpha=0.5).item(), 4)  # 1/4 log 1/2 + 3/4 log 3/2
        0.1308
    """
    if check_share('skewed_kl', alpha) == 0.0:
        return kl_divergence(student, teacher, temperature)
    student, teacher = rows_of('skewed_kl', student, teacher, temperature)
    return fused(_row_losses.skewed_kl(alpha), student, teacher, temperature)


@over_classes
@joins_classes
def skewed_reverse_kl(student: Tensor, teacher: Tensor, alpha: float = 0.1, temperature: float = 1.0) -> Tensor:
    r"""Skewed reverse KL divergence KL(student || (1 - alpha) teacher + alpha student) of the softened probabilities.

    Ko et al., *DistiLLM: Towards Streamlined Distillation for Large Language Models* (arXiv 2402.03898), which finds it
    the better of its two; notation as in :func:`skewed_kl`:

    .. math:: T^2 \cdot \frac{1}{N} \sum_i \mathrm{KL}\left(p_s \,\Vert\, (1 - \alpha) p_t + \alpha p_s\right)

    At ``alpha=0`` it is :func:`reverse_kl`. Usual weight: 1. For ``alpha`` above 0, only first derivatives are
    supported.

    Args:
        student: Logits ``(..., V)``; any floating dtype.
        teacher: Logits of the same shape. No gradient reaches them.
        alpha: The share of the student in the mixture: 0, or at least 0.001 and below 1.
        temperature: :math:`T > 0`.

    Returns:
        A float32 scalar (float64 for float64 inputs) in nats times :math:`T^2`, the mean over all dimensions but the
        last; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ, ``alpha`` is out of its bounds, or the temperature is not a positive finite
            number.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[3.0, 1.0]]).log()
        >>> round(skewed_reverse_kl(student, teacher, alpha=0.5).item(), 4)  # 1/4 log 1/2 + 3/4 log 3/2
        0.1308
    """
    if check_share('skewed_reverse_kl', alpha) == 0.0:
        return reverse_kl(student, teacher, temperature)
    student, teacher = rows_of('skewed_reverse_kl', student, teacher, temperature)
    return fused(_row_losses.skewed_reverse_kl(alpha), student, teacher, temperature)


def check_share(loss: str, alpha: float) -> float:
    """Checks the share of a mixture.

    Raises:
        ValueError: If it is out of its bounds.
    """
    alpha = check_number(loss, 'alpha', alpha, strict=False)
    if 0.0 < alpha < LEAST_SHARE or alpha >= 1.0:
        raise ValueError(f'{loss}: alpha must be 0, or at least {LEAST_SHARE:g} and below 1, got {alpha!r}')
    return alpha


@over_classes
@joins_classes
class SkewedKL(nn.Module):
    """Module version of :func:`skewed_kl`.

    Args:
        alpha: The share of the teacher in the mixture: 0, or at least 0.001 and below 1.
        temperature: :math:`T > 0`.

    Example:
        >>> SkewedKL()
        SkewedKL(alpha=0.1, temperature=1.0)
    """

    any_dtype = True  # converts to float32 itself, without a copy of all logits

    def __init__(self, alpha: float = 0.1, temperature: float = 1.0) -> None:
        super().__init__()
        self.alpha = check_share('SkewedKL', alpha)
        self.temperature = check_number('SkewedKL', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`skewed_kl`."""
        return skewed_kl(student, teacher, self.alpha, self.temperature)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'alpha={self.alpha}, temperature={self.temperature}'


@over_classes
@joins_classes
class SkewedReverseKL(nn.Module):
    """Module version of :func:`skewed_reverse_kl`.

    Args:
        alpha: The share of the student in the mixture: 0, or at least 0.001 and below 1.
        temperature: :math:`T > 0`.

    Example:
        >>> SkewedReverseKL(alpha=0.2)
        SkewedReverseKL(alpha=0.2, temperature=1.0)
    """

    any_dtype = True  # converts to float32 itself, without a copy of all logits

    def __init__(self, alpha: float = 0.1, temperature: float = 1.0) -> None:
        super().__init__()
        self.alpha = check_share('SkewedReverseKL', alpha)
        self.temperature = check_number('SkewedReverseKL', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`skewed_reverse_kl`."""
        return skewed_reverse_kl(student, teacher, self.alpha, self.temperature)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'alpha={self.alpha}, temperature={self.temperature}'
