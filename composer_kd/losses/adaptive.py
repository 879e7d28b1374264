"""Adaptive KL: forward and reverse KL, weighted at each position by where teacher and student differ."""

from __future__ import annotations

from torch import Tensor, nn

from composer_kd.losses import _row_losses
from composer_kd.losses._common import check_number, over_classes
from composer_kd.losses._fused import fused
from composer_kd.losses.kl import rows_of

__all__ = ['AdaptiveKL', 'adaptive_kl']


@over_classes
def adaptive_kl(student: Tensor, teacher: Tensor, head: float = 0.5, temperature: float = 1.0) -> Tensor:
    r"""Adaptive KL divergence: forward KL as far as the models differ in the teacher's head, else reverse KL.

    Wu et al., *Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models* (AKL,
    arXiv 2404.02657), with :math:`p, q` the softmax of teacher and student at temperature :math:`T`, and the factor
    :math:`T^2` of :func:`kl_divergence`:

    .. math:: T^2 \cdot \frac{1}{N} \sum_i \left[ \frac{g_h}{g_h + g_t} \mathrm{KL}(p \Vert q)
              + \frac{g_t}{g_h + g_t} \mathrm{KL}(q \Vert p) \right], \qquad
              g_h = \sum_{c \in \text{head}} |p_c - q_c|, \quad g_t = \sum_{c \in \text{tail}} |p_c - q_c|

    The head is the smallest set of the teacher's most probable classes that have the probability ``head`` together.
    (The authors' code leaves out the class that reaches it, unless it is the first.) The two shares are constants:
    no gradient passes through them. For equal inputs each is 1/2. Usual weight: 1. Only first derivatives are
    supported.

    Args:
        student: Logits ``(..., V)``; any floating dtype.
        teacher: Logits of the same shape. No gradient reaches them.
        head: The probability :math:`\mu` of the head, between 0 and 1.
        temperature: :math:`T > 0`.

    Returns:
        A float32 scalar (float64 for float64 inputs) in nats times :math:`T^2`, the mean over all dimensions but the
        last; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ, ``head`` is not between 0 and 1, or the temperature is not a positive finite
            number.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]).log()
        >>> round(adaptive_kl(student, teacher).item(), 4)  # the head is the second class: half of each divergence
        0.1373
    """
    head = check_head_share('adaptive_kl', head)
    student, teacher = rows_of('adaptive_kl', student, teacher, temperature)
    return fused(_row_losses.adaptive_kl(head), student, teacher, temperature)


def check_head_share(loss: str, head: float) -> float:
    """Checks the probability of the head.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    head = check_number(loss, 'head', head)
    if head >= 1.0:
        raise ValueError(f'{loss}: head must be between 0 and 1, got {head!r}')
    return head


@over_classes
class AdaptiveKL(nn.Module):
    """Module version of :func:`adaptive_kl`.

    Args:
        head: The probability of the head, between 0 and 1.
        temperature: :math:`T > 0`.

    Example:
        >>> AdaptiveKL()
        AdaptiveKL(head=0.5, temperature=1.0)
    """

    any_dtype = True  # converts to float32 itself, without a copy of all logits

    def __init__(self, head: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__()
        self.head = check_head_share('AdaptiveKL', head)
        self.temperature = check_number('AdaptiveKL', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`adaptive_kl`."""
        return adaptive_kl(student, teacher, self.head, self.temperature)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'head={self.head}, temperature={self.temperature}'
