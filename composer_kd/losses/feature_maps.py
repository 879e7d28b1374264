"""Losses on what the models see on their way: feature maps and hidden vectors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import (
    channels_dim,
    check_number,
    check_temperature,
    check_tensors,
    pooled_to_smaller,
    ready,
    unit,
    valid,
)

__all__ = ['ChannelWiseKL', 'attention_transfer', 'channel_wise_kl', 'hint', 'normalized_mse']


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared error of two features of the same shape: the hint of FitNets.

    Romero et al., *FitNets: Hints for Thin Deep Nets* (arXiv 1412.6550), equation 3, where a regressor :math:`r` brings
    the student's feature to the shape of the teacher's. The regressor is the ``project`` of a match, not part of the
    loss:

    .. math:: \frac{1}{n} \sum_{i=1}^{n} \left(r(s)_i - t_i\right)^2

    The mean runs over all :math:`n` elements, as published codes have it; the paper's halved sum over a map would grow
    with its size. The weight that is customary on images is 100. After a linear projector on hidden states or on
    embeddings this is also the hidden-state and the embedding loss of TinyBERT (arXiv 1909.10351, equations 8 and 9),
    with weight 1.

    Args:
        student: A feature of any shape, after the projector; any floating dtype.
        teacher: A feature of the same shape. No gradient reaches it.

    Returns:
        A float32 scalar (float64 for float64 inputs); 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> hint(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]])).item()  # (0 + 9) / 2
        4.5
    """
    return F.mse_loss(*ready('hint', student, teacher))


def attention_transfer(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean squared difference of where the two models look: their normalised maps of activity.

    Zagoruyko and Komodakis, *Paying More Attention to Attention* (arXiv 1612.03928), activation-based, with
    :math:`Q = \mathrm{mean}_c f_c^2` a map over positions and :math:`P` the number of positions:

    .. math:: \frac{1}{B P} \sum_b \left\Vert \frac{Q^s_b}{\Vert Q^s_b \Vert_2} -
              \frac{Q^t_b}{\Vert Q^t_b \Vert_2} \right\Vert_2^2

    This is the form of the authors' code, to which the customary weight of 1000 belongs; the paper's equation 2 has the
    sum of unsquared norms instead. The two sides may differ in channels, and need no projector. Where they differ in
    height or width, the larger map is average-pooled to the smaller size, so a layer may also learn from another one.

    Args:
        student: Feature maps ``(B, C, H, W)`` with any number of channels, or tokens ``(B, S, D)``, whose map runs
            over ``S``; any floating dtype.
        teacher: The same kind of features. No gradient reaches them.
        mask: Booleans (or integers 0 and 1), one per position, ``(B, S)`` or flat. Positions that are ``False`` are in
            neither map and do not count in the mean. The two sides must then have the same number of positions.

    Returns:
        A float32 scalar (float64 for float64 inputs) from 0, for equal maps, to :math:`2 / P`.

    Raises:
        ValueError: If one side is no feature with positions, or the two do not fit.

    Example:
        >>> import torch
        >>> student = torch.tensor([[[[2.0, 0.0]]]])  # looks to the left
        >>> teacher = torch.tensor([[[[0.0, 3.0]], [[0.0, 1.0]]]])  # looks to the right, with two channels
        >>> attention_transfer(student, teacher).item()  # (1 + 1) / 2 positions
        1.0
    """
    check_tensors('attention_transfer', student, teacher)
    if student.ndim < 3 or student.ndim != teacher.ndim or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            'attention_transfer: expected two features with positions, (B, C, H, W) or (B, S, D), got student '
            f'{tuple(student.shape)} and teacher {tuple(teacher.shape)}'
        )
    student, teacher = (
        x.square().mean(channels_dim(x)).unsqueeze(1) for x in ready('attention_transfer', student, teacher, False)
    )
    if mask is None:
        student, teacher = (unit(x.flatten(1)) for x in pooled_to_smaller(student, teacher))
        return F.mse_loss(student, teacher)
    student, teacher = student.flatten(1), teacher.flatten(1)
    if student.shape != teacher.shape:
        raise ValueError(
            f'attention_transfer: a mask does not fit a student with {student.numel()} and a teacher with '
            f'{teacher.numel()} positions'
        )
    mask = valid('attention_transfer', mask, student.shape)
    student, teacher = (unit(x.where(mask, 0.0)) for x in (student, teacher))
    return (student - teacher).square().sum() / mask.sum().clamp(min=1)


def channel_wise_kl(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    r"""Kullback-Leibler divergence between where each channel is active.

    Shu et al., *Channel-wise Knowledge Distillation for Dense Prediction* (arXiv 2011.13256), equations 4 and 5. The
    softmax :math:`\phi` of a channel runs over its positions:

    .. math:: \frac{T^2}{B C} \sum_b \sum_c
              \mathrm{KL}\left(\phi(t_{bc} / T) \,\Vert\, \phi(s_{bc} / T)\right)

    The paper divides by :math:`C` and leaves the mean over samples implicit. It takes it on logits of segmentation
    (weight 3) or on features (weight 50 in the authors' code) after a 1x1 projector where the channels differ.

    Args:
        student: ``(B, C, H, W)``, or maps of more dimensions with the channels in dimension 1; any floating dtype.
        teacher: Of the same shape. No gradient reaches it.
        temperature: :math:`T > 0`.

    Returns:
        A float32 scalar (float64 for float64 inputs), in nats times :math:`T^2`; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ or are not those of feature maps.

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 1, 1, 2)
        >>> teacher = torch.tensor([[[[1.0, 3.0]]]]).log()
        >>> round(channel_wise_kl(student, teacher, temperature=1.0).item(), 4)  # 1/4 log 1/2 + 3/4 log 3/2
        0.1308
    """
    student, teacher = ready('channel_wise_kl', student, teacher)
    check_temperature('channel_wise_kl', temperature)
    if student.ndim < 4:
        raise ValueError(f'channel_wise_kl: expected feature maps (B, C, H, W), got {tuple(student.shape)}')
    student, teacher = (F.log_softmax(x.flatten(2) / temperature, dim=-1) for x in (student, teacher))
    total = F.kl_div(student, teacher, reduction='sum', log_target=True)
    return total * (temperature * temperature / (student.shape[0] * student.shape[1]))


class ChannelWiseKL(nn.Module):
    r"""Module twin of :func:`channel_wise_kl`.

    Args:
        temperature: :math:`T > 0`; larger values look at more of a channel's positions.

    Raises:
        ValueError: If ``temperature`` is not a positive finite number.

    Example:
        >>> import torch
        >>> loss = ChannelWiseKL(temperature=2.0)
        >>> maps = torch.arange(8.0).reshape(1, 2, 2, 2)
        >>> loss(maps, maps).item()
        0.0
        >>> loss
        ChannelWiseKL(temperature=2.0)
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = check_number('ChannelWiseKL', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`channel_wise_kl`."""
        return channel_wise_kl(student, teacher, self.temperature)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'temperature={self.temperature}'


def normalized_mse(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared distance of hidden vectors of length one: the patient loss of PKD.

    Sun et al., *Patient Knowledge Distillation for BERT Model Compression* (arXiv 1908.09355), equation 7, for one
    layer, with :math:`h_n` the hidden vectors:

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \left\Vert \frac{h^s_n}{\Vert h^s_n \Vert_2} -
              \frac{h^t_n}{\Vert h^t_n \Vert_2} \right\Vert_2^2

    The paper sums over samples and layers; here it is a mean over the vectors, of the squared norm as it stands in the
    paper: not divided by the vector's size, as ``mse_loss`` on normalised vectors would. One match per layer
    adds the layers up. The paper compares the hidden state of the first token ([CLS]) of the layers in between, with
    a weight of 10 to 1000 in its search; here all that is passed counts.

    Args:
        student: ``(B, D)``, tokens ``(B, S, D)``, or maps with the channels in dimension 1; any floating dtype.
        teacher: Of the same shape. No gradient reaches it.

    Returns:
        A float32 scalar (float64 for float64 inputs) from 0, for equal directions, to 4 for opposite ones.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> normalized_mse(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 5.0]])).item()  # at right angles
        2.0
    """
    student, teacher = ready('normalized_mse', student, teacher)
    dim = channels_dim(student)
    return (unit(student, dim) - unit(teacher, dim)).square().sum(dim).mean()
