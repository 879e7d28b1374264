"""The Kullback-Leibler divergence between the logits of teacher and student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import (
    at_least_float32,
    bounded,
    check_number,
    check_temperature,
    check_tensors,
    joins_classes,
    mean,
    over_classes,
    valid,
)
from composer_kd.losses._fused import FUSED_FROM, forward_kl, fused

__all__ = ['KLDivergence', 'kl_divergence']


@over_classes
@joins_classes
def kl_divergence(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 4.0,
    softmax_dim: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Kullback-Leibler divergence KL(teacher || student) of the softened probabilities.

    Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network* (arXiv 1503.02531), with the factor
    :math:`T^2` that keeps the size of the gradient when the temperature changes:

    .. math:: T^2 \cdot \frac{1}{N} \sum_i \mathrm{KL}\left(
              \mathrm{softmax}(t_i / T) \,\Vert\, \mathrm{softmax}(s_i / T)\right)

    The divergence is a sum over classes and a mean over samples or positions (all dimensions except ``softmax_dim``),
    so its scale depends on neither the number of classes nor the length of a sequence. It is computed in float32
    (float64 for float64 inputs) for any dtype of the logits. From 2 :sup:`16` elements on, a fused pass over chunks of
    rows replaces the plain expression; the two agree to 1e-6. The fused pass supports first derivatives only, and
    raises an error if a second derivative is computed.

    Classes may be excluded, in one or both models, by logits of minus infinity or ``torch.finfo(dtype).min``, as for
    padded vocabularies: they count as -1e30. A class that only one model excludes can make the loss about as large.

    Args:
        student: Logits, ``(..., V, ...)`` with the classes in ``softmax_dim``; any floating dtype.
        teacher: Logits of the same shape. No gradient reaches them.
        temperature: :math:`T > 0`.
        softmax_dim: The dimension of the classes.
        mask: Booleans (or integers 0 and 1) of the logits' shape without ``softmax_dim``, or flat. Sum and :math:`N`
            include only the positions that are ``True``. If all are ``False``, the loss is 0.

    Returns:
        A float32 scalar (float64 for float64 inputs), in nats times :math:`T^2`; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ, the mask does not fit, or the temperature is not a positive finite number.

    Example:
        >>> import torch
        >>> student = torch.tensor([[0.0, 0.0]])
        >>> teacher = torch.tensor([[0.0, 2.0]]).log()[:, [1, 1]] + torch.tensor([[1.0, 3.0]]).log()
        >>> round(kl_divergence(student, teacher, temperature=1.0).item(), 4)  # 1/4 log 1/2 + 3/4 log 3/2
        0.1308
        >>> kl_divergence(student, student + 5.0).item()
        0.0
    """
    student, teacher = rows_of('kl_divergence', student, teacher, temperature, softmax_dim)
    weights = None
    if mask is not None:
        mask = valid('kl_divergence', mask, (student.shape[0],))
        if student.device.type == 'cpu':
            student, teacher = student[mask], teacher[mask]
        else:  # selecting rows would synchronise with the accelerator
            weights = mask
    if student.shape[0] == 0:
        return at_least_float32(student).sum() * 0.0
    if student.numel() >= FUSED_FROM:
        return fused(forward_kl, student, teacher, temperature, weights)
    return plain_kl(student, teacher, temperature, weights)


def plain_kl(student: Tensor, teacher: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """Computes the plain expression for rows ``(N, V)``; ``weights``, booleans ``(N,)``, says which rows count."""
    student, teacher = log_probabilities(student, teacher, temperature)
    square = temperature * temperature
    if weights is None:
        return F.kl_div(student, teacher, reduction='sum', log_target=True) * (square / student.shape[0])
    rows = F.kl_div(student, teacher, reduction='none', log_target=True).sum(-1)
    return torch.where(weights, rows, 0.0).sum() * square / weights.sum().clamp(min=1)


def rows_of(
    loss: str, student: Tensor, teacher: Tensor, temperature: float, softmax_dim: int = -1
) -> tuple[Tensor, Tensor]:
    """Reshapes the logits of both models from ``(..., V, ...)`` to ``(N, V)``, and detaches the teacher.

    The results are views where the memory layout allows it.

    Raises:
        ValueError: If one of them is not a tensor, the shapes differ, there is no class, or the temperature is not a
            positive finite number.
    """
    check_tensors(loss, student, teacher)
    check_temperature(loss, temperature)
    if student.shape != teacher.shape:
        raise ValueError(f'{loss}: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape')
    if not student.ndim or not student.shape[softmax_dim]:
        raise ValueError(f'{loss}: expected at least 1 class in dimension {softmax_dim}, got {tuple(student.shape)}')
    return _rows(student, softmax_dim), _rows(teacher, softmax_dim).detach()


def _rows(logits: Tensor, softmax_dim: int) -> Tensor:
    if softmax_dim != -1 and softmax_dim != logits.ndim - 1:
        logits = logits.movedim(softmax_dim, -1)
    return logits if logits.ndim == 2 else logits.reshape(-1, logits.shape[-1])


def log_probabilities(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Computes the log-probabilities ``(N, V)`` of both models at a temperature, in float32 at least."""
    dtype = torch.promote_types(student.dtype, torch.float32)
    student, teacher = bounded(student.to(dtype), temperature), bounded(teacher.to(dtype), temperature)
    scale = 1.0 / temperature
    if scale != 1.0:
        student, teacher = student * scale, teacher * scale
    return F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)


def kl_of_draws(log_probs: Tensor, entropy: Tensor, temperature: float) -> Tensor:
    """Estimates :func:`kl_divergence` from draws; its expectation is the value of all classes.

    Args:
        log_probs: ``(N, n)`` The student's log-probabilities of the classes drawn from the teacher.
        entropy: ``(N,)`` The teacher's entropy, in nats.
        temperature: :math:`T` of the draws.
    """
    return mean(log_probs.mean(-1) + entropy) * -(temperature**2)


kl_divergence.from_draws = kl_of_draws  # type: ignore[attr-defined]


@joins_classes
class KLDivergence(nn.Module):
    r"""Module version of :func:`kl_divergence`: :math:`T^2 \cdot \mathrm{KL}(\text{teacher} \Vert \text{student})`.

    Note:
        At ``temperature=4`` the gradient of this loss can be up to four times that of a cross-entropy. Small networks
        without BatchNorm may diverge at a learning rate that was tuned for the cross-entropy alone; then lower the
        learning rate or ``kd_loss_weight``.

    Args:
        temperature: :math:`T > 0`; larger values give more weight to the teacher's less likely classes.
        softmax_dim: The dimension of the classes: -1 for classifiers and language models, 1 for segmentation.

    Raises:
        ValueError: If ``temperature`` is not a positive finite number.

    Example:
        >>> import torch
        >>> loss = KLDivergence(temperature=2.0)
        >>> logits = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> loss(logits, logits).item()
        0.0
        >>> loss
        KLDivergence(temperature=2.0, softmax_dim=-1)
    """

    any_dtype = True  # converts to float32 itself, without a copy of all logits
    from_draws = staticmethod(kl_of_draws)

    def __init__(self, temperature: float = 4.0, softmax_dim: int = -1) -> None:
        super().__init__()
        self.temperature = check_number('KLDivergence', 'temperature', temperature)
        if isinstance(softmax_dim, bool) or not isinstance(softmax_dim, int):
            raise ValueError(f'KLDivergence: softmax_dim must be an int, got {softmax_dim!r}')
        self.softmax_dim = softmax_dim

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`kl_divergence`."""
        return kl_divergence(student, teacher, self.temperature, self.softmax_dim, mask)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'temperature={self.temperature}, softmax_dim={self.softmax_dim}'
