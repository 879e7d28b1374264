"""Correlation congruence as its paper defines it: kernels between all samples of a batch."""

from __future__ import annotations

import math

from torch import Tensor, nn

from composer_kd.losses._common import (
    check_number,
    directions,
    full_precision,
    pooled,
    reads,
    relates_samples,
    same_samples,
)

__all__ = ['KernelCongruence', 'kernel_congruence']


@relates_samples
@reads(pooled)
def kernel_congruence(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    r"""Mean squared difference of Gaussian kernels between all samples: correlation congruence as in its paper.

    Peng et al., *Correlation Congruence for Knowledge Distillation* (arXiv 1904.01802), equation 7, with the Gaussian
    kernel :math:`e^{-\gamma \lVert x - y \rVert^2}` of embeddings :math:`x, y` of length 1, expanded into a Taylor
    series up to order :math:`P`:

    .. math:: \frac{1}{B^2} \sum_{i,j} \left( k(s_i, s_j) - k(t_i, t_j) \right)^2, \qquad
              k(x, y) = e^{-2 \gamma} \sum_{p=0}^{P} \frac{(2 \gamma)^p}{p!} (x^\top y)^p

    The defaults are those of the paper. Weights differ: published re-implementations use 100, on the logits. The form
    of its authors' shared code, :func:`~composer_kd.losses.correlation_congruence`, is a different loss. An embedding
    of zeros, or one shorter than 1e-6 of the longest in the batch, counts as a rounding error: its product with all
    others is 0, without a gradient. Computed in float32 (float64 for float64 inputs), also under autocast.

    Args:
        student: Embeddings or logits ``(B, D)`` of at least two samples; tokens and feature maps are averaged over
            positions. Any floating dtype.
        teacher: Embeddings of the same samples; ``D`` may differ. No gradient reaches them.
        gamma: :math:`\gamma > 0`; larger values compare near samples only.
        order: :math:`P`, the highest power of the series, at least 1.

    Returns:
        A float32 scalar (float64 for float64 inputs), the mean over the ``B x B`` entries; 0 for equal inputs.

    Raises:
        ValueError: If student and teacher differ in batch size, there is only one sample, ``gamma`` is not a positive
            finite number, or ``order`` is not a positive integer.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0], [4.0]])  # products 0 and 1
        >>> value = kernel_congruence(student, teacher, gamma=0.5, order=2)
        >>> round(value.item(), 4)  # two of four entries differ by (1 + 1/2) / e
        0.1523
    """
    _check_kernel('kernel_congruence', gamma, order)
    student, teacher = (pooled(side) for side in same_samples('kernel_congruence', student, teacher))
    with full_precision(student):
        return (_kernel(student, gamma, order) - _kernel(teacher, gamma, order)).square().mean()


@relates_samples
class KernelCongruence(nn.Module):
    r"""Module version of :func:`kernel_congruence`.

    Args:
        gamma: :math:`\gamma > 0`; larger values compare near samples only.
        order: The highest power of the Taylor series, at least 1.

    Raises:
        ValueError: If ``gamma`` is not a positive finite number, or ``order`` is not a positive integer.

    Example:
        >>> KernelCongruence(order=3)
        KernelCongruence(gamma=0.4, order=3)
    """

    summary = staticmethod(pooled)

    def __init__(self, gamma: float = 0.4, order: int = 2) -> None:
        super().__init__()
        _check_kernel('KernelCongruence', gamma, order)
        self.gamma, self.order = float(gamma), order

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`kernel_congruence`."""
        return kernel_congruence(student, teacher, self.gamma, self.order)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'gamma={self.gamma}, order={self.order}'


def _check_kernel(owner: str, gamma: float, order: int) -> None:
    check_number(owner, 'gamma', gamma)
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f'{owner}: order must be a positive int, got {order!r}')


def _kernel(embeddings: Tensor, gamma: float, order: int) -> Tensor:
    """The kernel ``(B, B)`` between all samples, by Horner's scheme."""
    units = directions(embeddings)
    products = units @ units.T
    series = products.new_ones(()).expand_as(products)
    for power in range(order, 0, -1):
        series = 1.0 + series * products * (2.0 * gamma / power)
    return series * math.exp(-2.0 * gamma)
