"""Total variation distance between the output distributions of student and teacher."""

from __future__ import annotations

from torch import Tensor, nn

from composer_kd.losses import _row_losses
from composer_kd.losses._common import check_number, joins_classes, over_classes
from composer_kd.losses._fused import fused
from composer_kd.losses.kl import rows_of

__all__ = ['TotalVariation', 'total_variation']


@over_classes
@joins_classes
def total_variation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Total variation distance of the softened probabilities: the share of probability that lies elsewhere.

    Wen et al., *f-Divergence Minimization for Sequence-Level Knowledge Distillation* (arXiv 2307.15190), per position:

    .. math:: \frac{1}{N} \sum_i \frac{1}{2} \sum_c \left| \mathrm{softmax}(t_i / T)_c - \mathrm{softmax}(s_i / T)_c
              \right|

    It is symmetric, and bounded by 1. It has no factor :math:`T^2`: near equality its gradient does not shrink with the
    difference of the models, as that of a divergence does. Usual weight: 1. Only first derivatives are supported.

    Args:
        student: Logits ``(..., V)``; any floating dtype.
        teacher: Logits of the same shape. No gradient reaches them.
        temperature: :math:`T > 0`.

    Returns:
        A float32 scalar (float64 for float64 inputs) between 0 and 1, the mean over all dimensions but the last; 0 for
        equal inputs.

    Raises:
        ValueError: If the shapes differ, or the temperature is not a positive finite number.

    Example:
        >>> import torch
        >>> total_variation(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]).log()).item()
        0.25
    """
    student, teacher = rows_of('total_variation', student, teacher, temperature)
    return fused(_row_losses.total_variation, student, teacher, temperature) / temperature**2


@over_classes
@joins_classes
class TotalVariation(nn.Module):
    """Module version of :func:`total_variation`.

    Args:
        temperature: :math:`T > 0`.

    Example:
        >>> TotalVariation()
        TotalVariation(temperature=1.0)
    """

    any_dtype = True  # converts to float32 itself, without a copy of all logits

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = check_number('TotalVariation', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`total_variation`."""
        return total_variation(student, teacher, self.temperature)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'temperature={self.temperature}'
