"""Other divergences between what two models answer than that of :mod:`composer_kd.losses.kl`.

Like :func:`kl_divergence` they take a fused pass in chunks of rows, which has no second derivative, from
2 :sup:`16` elements on; :func:`generalized_jsd` always, as it is quicker at any size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses import _fused
from composer_kd.losses._common import check_number, full_precision
from composer_kd.losses._fused import FUSED_FROM, fused
from composer_kd.losses.kl import kl_divergence, log_probabilities, rows_of

__all__ = [
    'GeneralizedJSD',
    'ReverseKL',
    'SoftCrossEntropy',
    'generalized_jsd',
    'reverse_kl',
    'soft_cross_entropy',
]


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Kullback-Leibler divergence from the student's answer to the teacher's: the student seeks one mode.

    Gu et al., *MiniLLM: Knowledge Distillation of Large Language Models* (arXiv 2306.08543), per position, with the
    factor :math:`T^2` of :func:`kl_divergence`:

    .. math:: T^2 \cdot \frac{1}{N} \sum_i \mathrm{KL}\left(
              \mathrm{softmax}(s_i / T) \,\Vert\, \mathrm{softmax}(t_i / T)\right)

    The paper takes the divergence of whole texts that the student wrote, by policy gradients; this is its
    differentiable form at given positions. Use it with weight 1. From 2 :sup:`16` elements on it has
    no second derivative.

    Args:
        student: Logits ``(..., V)``; any floating dtype, computed in float32 at least.
        teacher: Logits of the same shape. No gradient reaches them.
        temperature: :math:`T > 0`.

    Returns:
        A scalar in nats times :math:`T^2`, the mean over rows; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ, or the temperature is not a positive finite number.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0, 3.0]]).log()
        >>> round(reverse_kl(torch.zeros(1, 2), teacher).item(), 4)  # 1/2 log 2 + 1/2 log 2/3
        0.1438
    """
    student, teacher = rows_of('reverse_kl', student, teacher, temperature)
    if student.numel() >= FUSED_FROM:
        return fused(_fused.reverse_kl, student, teacher, temperature)
    log_s, log_t = log_probabilities(student, teacher, temperature)
    return F.kl_div(log_t, log_s, reduction='sum', log_target=True) * (temperature**2 / max(1, len(student)))


class ReverseKL(nn.Module):
    """Module twin of :func:`reverse_kl`.

    Args:
        temperature: :math:`T > 0`.

    Example:
        >>> ReverseKL(temperature=2.0)
        ReverseKL(temperature=2.0)
    """

    any_dtype = True  # computes in float32 by itself, without a copy of all logits

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = check_number('ReverseKL', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`reverse_kl`."""
        return reverse_kl(student, teacher, self.temperature)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'temperature={self.temperature}'


def generalized_jsd(student: Tensor, teacher: Tensor, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    r"""Generalised Jensen-Shannon divergence, which leads from forward to reverse KL.

    Agarwal et al., *On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes* (GKD,
    arXiv 2306.13649), with :math:`p_t, p_s` the softmax at temperature :math:`T` and :math:`m = \beta p_t + (1 -
    \beta) p_s`:

    .. math:: T^2 \cdot \frac{1}{N} \sum_i \left[ \beta\, \mathrm{KL}(p_t \Vert m)
              + (1 - \beta)\, \mathrm{KL}(p_s \Vert m) \right]

    The expression itself is 0 at both ends. As the paper's limits (and its followers' code) have it, ``beta=0`` is
    the forward divergence :math:`\mathrm{KL}(p_t \Vert p_s)`, the limit of the loss divided by :math:`\beta`, and
    ``beta=1`` the reverse one, the limit of the loss divided by :math:`1 - \beta`. So the value jumps at the ends: a
    schedule of ``beta`` had better stay between. The paper has no factor :math:`T^2`, nor any other :math:`T` than 1.
    Use it with weight 1. There is no second derivative (strictly between the ends, at any size).

    Args:
        student: Logits ``(..., V)``; any floating dtype, computed in float32 at least.
        teacher: Logits of the same shape. No gradient reaches them.
        beta: The teacher's share of the mixture, 0 to 1.
        temperature: :math:`T > 0`.

    Returns:
        A scalar in nats times :math:`T^2`, the mean over rows; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ, ``beta`` is not within 0 and 1, or the temperature is not a positive finite
            number.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[3.0, 1.0]]).log()
        >>> round(generalized_jsd(student, teacher).item(), 4)  # 1/4 log 1/2 + 3/4 log 3/2
        0.1308
        >>> generalized_jsd(student, teacher, beta=0.0) == kl_divergence(student, teacher, temperature=1.0)
        tensor(True)
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f'generalized_jsd: beta must be within 0 and 1, got {beta!r}')
    if beta == 0.0:
        return kl_divergence(student, teacher, temperature)
    if beta == 1.0:
        return reverse_kl(student, teacher, temperature)
    student, teacher = rows_of('generalized_jsd', student, teacher, temperature)
    return fused(_fused.mixture(beta), student, teacher, temperature)


class GeneralizedJSD(nn.Module):
    """Module twin of :func:`generalized_jsd`.

    Args:
        beta: The teacher's share of the mixture; 0 is forward KL, 1 reverse KL.
        temperature: :math:`T > 0`.

    Example:
        >>> GeneralizedJSD(beta=0.1)
        GeneralizedJSD(beta=0.1, temperature=1.0)
    """

    any_dtype = True  # computes in float32 by itself, without a copy of all logits

    def __init__(self, beta: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__()
        self.beta = check_number('GeneralizedJSD', 'beta', beta, strict=False)
        if beta > 1:
            raise ValueError(f'GeneralizedJSD: beta must be within 0 and 1, got {beta!r}')
        self.temperature = check_number('GeneralizedJSD', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`generalized_jsd`."""
        return generalized_jsd(student, teacher, self.beta, self.temperature)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'beta={self.beta}, temperature={self.temperature}'


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Cross-entropy of the student's answer under the teacher's, as torch defines it for soft targets.

    .. math:: -T^2 \cdot \frac{1}{N} \sum_i \sum_c \mathrm{softmax}(t_i / T)_c \, \log \mathrm{softmax}(s_i / T)_c

    Its gradient is that of :func:`kl_divergence`; its value is greater by the teacher's entropy, so it is least, but
    not 0, for equal inputs. From 2 :sup:`16` elements on it has no second derivative.

    Args:
        student: Logits ``(..., V)``; any floating dtype, computed in float32 at least.
        teacher: Logits of the same shape. No gradient reaches them.
        temperature: :math:`T > 0`.

    Returns:
        A scalar in nats times :math:`T^2`, the mean over rows.

    Raises:
        ValueError: If the shapes differ, or the temperature is not a positive finite number.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0, 3.0]]).log()
        >>> round(soft_cross_entropy(torch.zeros(1, 2), teacher).item(), 4)  # log 2
        0.6931
    """
    student, teacher = rows_of('soft_cross_entropy', student, teacher, temperature)
    if student.numel() >= FUSED_FROM:
        return fused(_fused.cross_entropy, student, teacher, temperature)
    log_s, log_t = log_probabilities(student, teacher, temperature)
    with full_precision(student):
        total = torch.linalg.vecdot(log_t.exp(), log_s).sum()
    return total * (-(temperature**2) / max(1, len(student)))


class SoftCrossEntropy(nn.Module):
    """Module twin of :func:`soft_cross_entropy`.

    Args:
        temperature: :math:`T > 0`.

    Example:
        >>> SoftCrossEntropy()
        SoftCrossEntropy(temperature=1.0)
    """

    any_dtype = True  # computes in float32 by itself, without a copy of all logits

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = check_number('SoftCrossEntropy', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`soft_cross_entropy`."""
        return soft_cross_entropy(student, teacher, self.temperature)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'temperature={self.temperature}'
