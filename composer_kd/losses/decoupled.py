"""Losses that treat the labelled class and the other classes separately.

They use a fused pass over chunks of rows, which supports first derivatives only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from composer_kd.losses._common import check_number, over_classes
from composer_kd.losses._fused import fused, parted_cross_entropy, parted_kl
from composer_kd.losses.kl import rows_of

__all__ = ['DKD', 'NKD', 'dkd', 'nkd']

NO_LABEL = -100
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@over_classes
def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    r"""Decoupled knowledge distillation: KL of label against all other classes, plus KL among the other classes.

    Zhao et al., *Decoupled Knowledge Distillation* (arXiv 2203.08679). With :math:`p = \mathrm{softmax}(z / T)`,
    :math:`b = (p_y, 1 - p_y)` and :math:`\hat p` the softmax over all classes except the label:

    .. math:: T^2 \cdot \frac{1}{N} \sum_i \left[ \alpha\, \mathrm{KL}(b^t \Vert b^s)
              + \beta\, \mathrm{KL}(\hat p^t \Vert \hat p^s) \right]

    With :math:`\alpha = 1` and :math:`1 - p^t_y` in place of :math:`\beta` it equals :func:`kl_divergence`. The paper
    tunes ``beta`` for each teacher; it publishes 8, 6 and 2. The authors' code increases the weight over the first 20
    epochs; here, use a schedule. That code takes the logarithm of probabilities and masks the label by subtracting
    1000 from its logit; here everything is computed in log-probabilities, which is exact. Usual weight: 1, with weight
    1 for the cross-entropy. Only first derivatives are supported.

    Args:
        student: Logits ``(..., V)``, at least two classes; any floating dtype.
        teacher: Logits of the same shape. No gradient reaches them.
        labels: The class of each row, integers of the logits' shape without ``V``, or flat. Where a label is -100, the
            teacher's top class is used instead.
        alpha: Weight of the first part.
        beta: Weight of the second part.
        temperature: :math:`T > 0`.

    Returns:
        A float32 scalar (float64 for float64 inputs) in nats times :math:`T^2`, the mean over rows; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ, the labels are not valid classes (their values are checked on the CPU only),
            there is only one class, or the temperature is not a positive finite number.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 1.0]]).log()
        >>> labels = torch.tensor([0])
        >>> round(dkd(student, teacher, labels, temperature=1.0).item(), 4)  # 1/2 log 3/2 + 1/2 log 3/4, and 0
        0.0589
    """
    student, teacher, target = _with_target('dkd', student, teacher, labels, temperature)
    return fused(parted_kl(alpha, beta), student, teacher, temperature, target=target)


@over_classes
class DKD(nn.Module):
    """Module version of :func:`dkd`.

    Args:
        alpha: Weight of the divergence between the label and all other classes.
        beta: Weight of the divergence among the other classes.
        temperature: :math:`T > 0`.

    Example:
        >>> DKD(beta=2.0)
        DKD(alpha=1.0, beta=2.0, temperature=4.0)
    """

    any_dtype = True  # converts to float32 itself, without a copy of all logits

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        self.alpha = check_number('DKD', 'alpha', alpha, strict=False)
        self.beta = check_number('DKD', 'beta', beta, strict=False)
        self.temperature = check_number('DKD', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """See :func:`dkd`."""
        return dkd(student, teacher, labels, self.alpha, self.beta, self.temperature)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'alpha={self.alpha}, beta={self.beta}, temperature={self.temperature}'


@over_classes
def nkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> Tensor:
    r"""Normalised knowledge distillation: soft cross-entropy for the label, plus one among the other classes.

    Yang et al., *From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss
    and Customized Soft Labels* (arXiv 2303.13005). With :math:`p` the softmax and :math:`\hat p` the softmax over all
    classes except the label, at temperature :math:`\tau`:

    .. math:: \frac{1}{N} \sum_i \left[ -p^t_y \log p^s_y
              - \gamma \tau^2 \sum_{c \ne y} \hat p^t_c \log \hat p^s_c \right]

    As in the authors' code, the temperature applies to the other classes only. The loss is a cross-entropy: equal
    inputs give neither 0 nor its minimum. The paper adds it, with weight 1, to the cross-entropy with the labels. Only
    first derivatives are supported.

    Args:
        student: Logits ``(..., V)``, at least two classes; any floating dtype.
        teacher: Logits of the same shape. No gradient reaches them.
        labels: The class of each row, integers of the logits' shape without ``V``, or flat. Where a label is -100, the
            teacher's top class is used instead.
        gamma: Weight of the other classes.
        temperature: :math:`\tau > 0`, for the other classes.

    Returns:
        A float32 scalar (float64 for float64 inputs) in nats, the mean over rows. The part of the other classes is
        multiplied by :math:`\tau^2`.

    Raises:
        ValueError: If the shapes differ, the labels are not valid classes (their values are checked on the CPU only),
            there is only one class, or the temperature is not a positive finite number.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 1.0]]).log()
        >>> round(nkd(student, teacher, torch.tensor([0])).item(), 4)  # 1/2 log 3 + 1.5 log 2
        1.589
    """
    student, teacher, target = _with_target('nkd', student, teacher, labels, temperature)
    if temperature == 1.0:
        return fused(parted_cross_entropy(1.0, gamma), student, teacher, 1.0, target=target)
    of_target = fused(parted_cross_entropy(1.0, 0.0), student, teacher, 1.0, target=target)
    return of_target + fused(parted_cross_entropy(0.0, gamma), student, teacher, temperature, target=target)


@over_classes
class NKD(nn.Module):
    r"""Module version of :func:`nkd`.

    Args:
        gamma: Weight of the classes other than the label.
        temperature: :math:`\tau > 0`, for the other classes.

    Example:
        >>> NKD()
        NKD(gamma=1.5, temperature=1.0)
    """

    any_dtype = True  # converts to float32 itself, without a copy of all logits

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0) -> None:
        super().__init__()
        self.gamma = check_number('NKD', 'gamma', gamma, strict=False)
        self.temperature = check_number('NKD', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """See :func:`nkd`."""
        return nkd(student, teacher, labels, self.gamma, self.temperature)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'gamma={self.gamma}, temperature={self.temperature}'


def _with_target(
    loss: str, student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the logits of both models as rows ``(N, V)``, and the target class of each row, ``(N, 1)``."""
    student, teacher = rows_of(loss, student, teacher, temperature)
    rows, classes = student.shape
    if classes < 2:
        raise ValueError(f'{loss}: expected at least 2 classes, got {tuple(student.shape)}')
    if labels.numel() != rows or labels.dtype not in INTEGERS:
        raise ValueError(
            f'{loss}: expected labels of {rows} rows as class indices, got {tuple(labels.shape)} {labels.dtype} for '
            f'logits {tuple(student.shape)}'
        )
    target = labels.reshape(-1, 1).long()
    unlabelled = target == NO_LABEL
    if target.device.type == 'cpu':  # reading values from an accelerator would synchronise with it
        wrong = ((target < 0) | (target >= classes)) & ~unlabelled
        if wrong.any():
            raise ValueError(
                f'{loss}: expected labels from 0 to {classes - 1}, or {NO_LABEL} for none, got '
                f'{target[wrong][0].item()}'
            )
        if not unlabelled.any():
            return student, teacher, target
    return student, teacher, torch.where(unlabelled, teacher.argmax(-1, keepdim=True), target)
