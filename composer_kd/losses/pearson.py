"""A loss on correlations instead of divergences, for a teacher that is much stronger than the student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import (
    bounded,
    check_number,
    check_samples,
    check_temperature,
    length,
    over_classes,
    ready,
    relates_samples,
)

__all__ = ['DIST', 'dist']

LEAST = 1e-8  # smallest norm that a vector is divided by
NOISE = 8.0  # times the dtype's epsilon and the norm of the values: rounding error of a constant vector, at most


@relates_samples
@over_classes
def dist(
    student: Tensor,
    teacher: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    scaled: bool = True,
) -> Tensor:
    r"""Pearson correlation of probabilities, over the classes of each sample and over the samples of each class.

    Huang et al., *Knowledge Distillation from A Stronger Teacher* (arXiv 2205.10536). With :math:`\rho` Pearson's
    correlation and :math:`P = \mathrm{softmax}(z / \tau)` of shape :math:`(B, V)`:

    .. math:: \tau^2 \left[ \beta \left(1 - \frac{1}{B} \sum_i \rho(P^s_{i\cdot}, P^t_{i\cdot})\right)
              + \gamma \left(1 - \frac{1}{V} \sum_c \rho(P^s_{\cdot c}, P^t_{\cdot c})\right) \right]

    The paper's equation has no factor :math:`\tau^2`; one of the authors' two implementations has it, the other does
    not. Usual weight: 1, since ``beta`` and ``gamma`` are weights already.

    A row or column that is constant up to rounding, in student or teacher, has no correlation: it counts as 0, as in
    the authors' code, and has a moderate gradient. Each such column adds :math:`\gamma \tau^2 / V` to the loss, each
    such row :math:`\beta \tau^2 / B`, even for equal inputs. Columns are constant where a class is excluded (by a logit
    of minus infinity or ``torch.finfo(dtype).min``, as in a padded vocabulary) or has the same probability in the whole
    batch: slice excluded classes off to leave them out. The authors add 1e-8 to the product of the two norms, which
    makes columns of small values (many classes) look uncorrelated; here each norm is at least 1e-8.

    Args:
        student: Logits ``(..., V)``; any floating dtype. All dimensions but the last are flattened into samples.
        teacher: Logits of the same shape. No gradient reaches them.
        beta: Weight of the correlation over classes.
        gamma: Weight of the correlation over samples.
        temperature: :math:`\tau > 0`; 1 on ImageNet, 4 on CIFAR.
        scaled: Whether to multiply by :math:`\tau^2`.

    Returns:
        A float32 scalar (float64 for float64 inputs) without unit, from the mean over rows and the mean over columns,
        from 0 to :math:`2 \tau^2 (\beta + \gamma)`; 0 for equal inputs without constant rows or columns.

    Raises:
        ValueError: If the shapes differ, there are fewer than two rows or two classes, or the temperature is not a
            positive finite number.

    Example:
        >>> import torch
        >>> student = torch.tensor([[1.0, 3.0], [3.0, 1.0]]).log()
        >>> round(dist(student, student.flip(0)).item(), 4)  # all correlations are -1
        4.0
    """
    student, teacher = ready('dist', student, teacher)
    check_temperature('dist', temperature)
    if student.ndim < 2 or student.shape[-1] < 2:
        raise ValueError(f'dist: expected logits (..., V) of at least 2 classes, got {tuple(student.shape)}')
    student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)
    check_samples('dist', student)
    p_s, p_t = (F.softmax(bounded(x, temperature) / temperature, dim=-1) for x in (student, teacher))
    value = beta * (1.0 - _correlation(p_s, p_t, 1)) + gamma * (1.0 - _correlation(p_s, p_t, 0))
    return value * temperature**2 if scaled else value


def _correlation(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Computes Pearson's correlation along ``dim``, averaged over the other dimension."""
    return (_direction(one, dim) * _direction(other, dim)).sum(dim).mean()


def _direction(values: Tensor, dim: int) -> Tensor:
    """Subtracts the mean and divides by the norm; where the result is only rounding error, it is not divided."""
    centred = values - values.mean(dim, keepdim=True)
    norm, size = (torch.linalg.vector_norm(x.detach(), dim=dim, keepdim=True) for x in (centred, values))
    noise = NOISE * torch.finfo(values.dtype).eps * size
    return centred / length(centred, norm > noise, dim).clamp(min=LEAST)


@relates_samples
@over_classes
class DIST(nn.Module):
    r"""Module version of :func:`dist`.

    Args:
        beta: Weight of the correlation over classes.
        gamma: Weight of the correlation over samples.
        temperature: :math:`\tau > 0`.
        scaled: Whether to multiply by :math:`\tau^2`.

    Example:
        >>> DIST(temperature=4.0)
        DIST(beta=1.0, gamma=1.0, temperature=4.0, scaled=True)
    """

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, scaled: bool = True) -> None:
        super().__init__()
        self.beta = check_number('DIST', 'beta', beta, strict=False)
        self.gamma = check_number('DIST', 'gamma', gamma, strict=False)
        self.temperature = check_number('DIST', 'temperature', temperature)
        if not isinstance(scaled, bool):
            raise ValueError(f'DIST: scaled must be True or False, got {scaled!r}')
        self.scaled = scaled

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`dist`."""
        return dist(student, teacher, self.beta, self.gamma, self.temperature, self.scaled)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'beta={self.beta}, gamma={self.gamma}, temperature={self.temperature}, scaled={self.scaled}'
