"""The alpha-beta family of divergences, in which forward and reverse KL are two points."""

from __future__ import annotations

from torch import Tensor, nn

from composer_kd.losses import _row_losses
from composer_kd.losses._common import check_number, over_classes
from composer_kd.losses._fused import fused
from composer_kd.losses.kl import rows_of

__all__ = ['AlphaBetaDivergence', 'alpha_beta_divergence']


@over_classes
def alpha_beta_divergence(
    student: Tensor, teacher: Tensor, alpha: float = 0.2, beta: float = 0.7, temperature: float = 1.0
) -> Tensor:
    r"""Alpha-beta divergence of the softened probabilities of teacher and student.

    Wang et al., *ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via
    Alpha-Beta-Divergence* (arXiv 2505.04560), with :math:`p, q` the softmax of teacher and student at temperature
    :math:`T`, sums over the classes, and the factor :math:`T^2` of :func:`kl_divergence`:

    .. math:: \frac{T^2}{N} \sum_i -\frac{1}{\alpha \beta} \sum_c \left[ p_c^\alpha q_c^\beta
              - \frac{\alpha}{\alpha + \beta} p_c^{\alpha + \beta} - \frac{\beta}{\alpha + \beta} q_c^{\alpha + \beta}
              \right]

    ``alpha`` says how much the classes count at which the two differ most, ``beta`` how much those of which the student
    is sure. ``(1, 0)`` is forward KL, ``(0, 1)`` reverse KL, ``(a, 1 - a)`` the alpha-divergence. Where a parameter is
    0, the value is the limit of the equation, and it is reached continuously:

    .. math:: \frac{1}{\alpha^2} \sum_c \left[ p_c^\alpha \log \frac{p_c^\alpha}{q_c^\alpha} - p_c^\alpha + q_c^\alpha
              \right] \text{ at } \beta = 0

    and the same with the sides changed at ``alpha=0``. (The authors' code has one factor less there, which makes no
    difference at the value 1.) The paper has :math:`T = 1` for language models, with ``(0.2, 0.7)``. Usual weight: 1.
    Only first derivatives are supported.

    Args:
        student: Logits ``(..., V)``; any floating dtype.
        teacher: Logits of the same shape. No gradient reaches them.
        alpha: :math:`\alpha \ge 0`.
        beta: :math:`\beta \ge 0`; not both 0.
        temperature: :math:`T > 0`.

    Returns:
        A float32 scalar (float64 for float64 inputs), the mean over all dimensions but the last; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ, a parameter is negative or both are 0 (the divergence is then infinite where a
            model gives a class no probability), or the temperature is not a positive finite number.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]).log()
        >>> round(alpha_beta_divergence(student, teacher, 1.0, 1.0).item(), 4)  # half the sum of (p - q)^2
        0.0625
    """
    alpha, beta = check_parameters('alpha_beta_divergence', alpha, beta)
    student, teacher = rows_of('alpha_beta_divergence', student, teacher, temperature)
    return fused(_row_losses.alpha_beta(alpha, beta), student, teacher, temperature)


def check_parameters(loss: str, alpha: float, beta: float) -> tuple[float, float]:
    """Checks the parameters of the divergence.

    Raises:
        ValueError: If they are out of their bounds.
    """
    alpha, beta = (check_number(loss, n, value, strict=False) for n, value in (('alpha', alpha), ('beta', beta)))
    if alpha == beta == 0.0:
        raise ValueError(f'{loss}: alpha and beta must not both be 0, where a class without probability is infinite')
    return alpha, beta


@over_classes
class AlphaBetaDivergence(nn.Module):
    r"""Module version of :func:`alpha_beta_divergence`.

    Args:
        alpha: :math:`\alpha \ge 0`.
        beta: :math:`\beta \ge 0`; not both 0.
        temperature: :math:`T > 0`.

    Example:
        >>> AlphaBetaDivergence(alpha=0.5, beta=0.5)
        AlphaBetaDivergence(alpha=0.5, beta=0.5, temperature=1.0)
    """

    any_dtype = True  # converts to float32 itself, without a copy of all logits

    def __init__(self, alpha: float = 0.2, beta: float = 0.7, temperature: float = 1.0) -> None:
        super().__init__()
        self.alpha, self.beta = check_parameters('AlphaBetaDivergence', alpha, beta)
        self.temperature = check_number('AlphaBetaDivergence', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`alpha_beta_divergence`."""
        return alpha_beta_divergence(student, teacher, self.alpha, self.beta, self.temperature)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'alpha={self.alpha}, beta={self.beta}, temperature={self.temperature}'
