"""Losses between features of student and teacher: feature maps and hidden vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import (
    bounded,
    channels_dim,
    check_number,
    check_temperature,
    check_tensors,
    full_precision,
    mean,
    mean_squared,
    pooled_to_smaller,
    ready,
    takes_maps,
    unit,
    valid,
)

__all__ = ['ChannelWiseKL', 'attention_transfer', 'channel_wise_kl', 'hint', 'normalized_mse', 'nst']

LAYER_NORM_EPS = 1e-5


def hint(student: Tensor, teacher: Tensor, standardize: bool = False) -> Tensor:
    r"""Mean squared error of features of the same shape: the hint of FitNets.

    Romero et al., *FitNets: Hints for Thin Deep Nets* (arXiv 1412.6550), equation 3. There a regressor :math:`r` maps
    the student's features to the shape of the teacher's; here that is the projector of a match (``project``), not part
    of the loss:

    .. math:: \frac{1}{n} \sum_{i=1}^{n} \left(r(s)_i - t_i\right)^2

    The mean runs over all :math:`n` elements, as in published code; the paper has half the sum, which grows with the
    size of the map. Usual weight on images: 100. With a linear projector on hidden states or embeddings, this is also
    the hidden-state and the embedding loss of TinyBERT (arXiv 1909.10351, equations 8 and 9), with weight 1.

    Args:
        student: Features of any shape, after the projector; any floating dtype.
        teacher: Features of the same shape. No gradient reaches them.
        standardize: Whether the teacher's feature is first given mean 0 and variance 1 over its channels at each
            position, as a layer norm does; the normalisation that goes with an orthogonal projector (VkD, arXiv
            2403.06213), which cannot scale the student's feature to the teacher's.

    Returns:
        A float32 scalar (float64 for float64 inputs); without ``standardize`` 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> hint(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]])).item()  # (0 + 9) / 2
        4.5
    """
    if standardize:
        student, teacher = ready('hint', student, teacher)
        dim = channels_dim(teacher)
        variance, centre = torch.var_mean(teacher, dim, unbiased=False, keepdim=True)
        teacher = (teacher - centre) / (variance + LAYER_NORM_EPS).sqrt()
    return mean_squared('hint', student, teacher)


@takes_maps
def attention_transfer(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean squared difference of the normalised spatial attention maps: attention transfer.

    Zagoruyko and Komodakis, *Paying More Attention to Attention* (arXiv 1612.03928), activation-based. The attention
    map :math:`Q = \mathrm{mean}_c f_c^2` runs over the :math:`P` positions:

    .. math:: \frac{1}{B P} \sum_b \left\Vert \frac{Q^s_b}{\Vert Q^s_b \Vert_2} -
              \frac{Q^t_b}{\Vert Q^t_b \Vert_2} \right\Vert_2^2

    This is the form of the authors' code, with the usual weight of 1000; the paper's equation 2 has the sum of the
    norms (not squared) instead. Student and teacher may differ in channels and need no projector. Where they differ in
    height or width, the larger map is average-pooled to the smaller size, so the two layers may have different
    resolutions.

    Args:
        student: Feature maps ``(B, C, H, W)`` with any number of channels, or tokens ``(B, S, D)``, whose attention
            map runs over ``S``; any floating dtype.
        teacher: The same kind of features. No gradient reaches them.
        mask: Booleans (or integers 0 and 1), one per position, ``(B, S)`` or flat. Attention maps and mean include only
            the positions that are ``True``. Student and teacher must then have the same number of positions.

    Returns:
        A float32 scalar (float64 for float64 inputs), from 0 for equal maps to :math:`2 / P`.

    Raises:
        ValueError: If the features have no positions, or the shapes of student, teacher and mask do not fit together.

    Example:
        >>> import torch
        >>> student = torch.tensor([[[[2.0, 0.0]]]])  # active on the left
        >>> teacher = torch.tensor([[[[0.0, 3.0]], [[0.0, 1.0]]]])  # two channels, active on the right
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
        return mean((student - teacher).square())
    student, teacher = student.flatten(1), teacher.flatten(1)
    if student.shape != teacher.shape:
        raise ValueError(
            f'attention_transfer: a mask does not fit a student with {student.numel()} and a teacher with '
            f'{teacher.numel()} positions'
        )
    mask = valid('attention_transfer', mask, student.shape)
    student, teacher = (unit(x.where(mask, 0.0)) for x in (student, teacher))
    return (student - teacher).square().sum() / mask.sum().clamp(min=1)


@takes_maps
def channel_wise_kl(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    r"""Kullback-Leibler divergence between the spatial distributions of each channel.

    Shu et al., *Channel-wise Knowledge Distillation for Dense Prediction* (arXiv 2011.13256), equations 4 and 5. The
    softmax :math:`\phi` of a channel runs over its positions:

    .. math:: \frac{T^2}{B C} \sum_b \sum_c
              \mathrm{KL}\left(\phi(t_{bc} / T) \,\Vert\, \phi(s_{bc} / T)\right)

    The paper divides by :math:`C` and leaves the mean over samples implicit. It applies the loss to segmentation logits
    (weight 3), or to features (weight 50 in the authors' code) with a 1x1 projector where the channels differ.

    Args:
        student: Feature maps or logits ``(B, C, H, W)``, or with more dimensions, with the channels in dimension 1; any
            floating dtype.
        teacher: Maps of the same shape. No gradient reaches them.
        temperature: :math:`T > 0`.

    Returns:
        A float32 scalar (float64 for float64 inputs) in nats times :math:`T^2`, the sum over positions and the mean
        over samples and channels; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ or have fewer than four dimensions, or the temperature is not a positive finite
            number.

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
    student, teacher = (
        F.log_softmax(bounded(x.flatten(2), temperature) / temperature, dim=-1) for x in (student, teacher)
    )
    total = F.kl_div(student, teacher, reduction='sum', log_target=True)
    return total * (temperature * temperature / max(1, student.shape[0] * student.shape[1]))


@takes_maps
class ChannelWiseKL(nn.Module):
    r"""Module version of :func:`channel_wise_kl`.

    Args:
        temperature: :math:`T > 0`; larger values spread the softmax over more positions of a channel.

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


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy of the channels' activation patterns: neuron selectivity transfer.

    Huang and Wang, *Like What You Like: Knowledge Distill via Neuron Selectivity Transfer* (arXiv 1707.01219) with
    the polynomial kernel :math:`k(x, y) = (x^\top y + c)^d` of degree :math:`d = 2` and :math:`c = 0`. The
    pattern :math:`f^c` of a channel is its map over the :math:`P` positions, divided by its L2 norm:

    .. math:: \frac{1}{B} \sum_b \left[ \frac{1}{C_t^2} \sum_{c,d} k(t^c_b, t^d_b)
              + \frac{1}{C_s^2} \sum_{c,d} k(s^c_b, s^d_b)
              - \frac{2}{C_t C_s} \sum_{c,d} k(t^c_b, s^d_b) \right]

    This equals the squared Frobenius distance of the mean outer products :math:`\frac{1}{C} \sum_c f^c f^{c\top}`, so
    it is 0 where the patterns of both models are distributed alike, in any order. Student and teacher may differ in
    channels and need no projector. Where they differ in height or width, the larger map is average-pooled to the
    smaller size. Usual weight: 50 for each layer, as in RepDistiller; the paper writes its weight as :math:`\lambda /
    2`. A channel of zeros has no pattern: it counts as a vector of zeros. Computed in float32 (float64 for float64
    inputs), also under autocast; near equality, rounding can make the value negative by about 1e-7.

    Args:
        student: Feature maps ``(B, C, H, W)``, or volumes ``(B, C, D, H, W)``; any floating dtype.
        teacher: Maps of the same samples and number of dimensions. No gradient reaches them.

    Returns:
        A float32 scalar (float64 for float64 inputs) from 0 to 2, the mean over samples; 0 for equal inputs.

    Raises:
        ValueError: If the features are not maps, or differ in batch size or number of dimensions.

    Example:
        >>> import torch
        >>> left, right = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]]]])  # one channel, two positions
        >>> nst(left, torch.cat([left, right], dim=1)).item()  # k: 1, half of the teacher's pairs, half of the shared
        0.5
    """
    check_tensors('nst', student, teacher)
    if student.ndim < 4 or student.ndim != teacher.ndim or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f'nst: expected two feature maps (B, C, H, W) of the same samples, got student {tuple(student.shape)} and '
            f'teacher {tuple(teacher.shape)}'
        )
    student, teacher = pooled_to_smaller(*ready('nst', student, teacher, same_shape=False))
    student, teacher = unit(student.flatten(2)), unit(teacher.flatten(2))
    with full_precision(student):
        of_teacher, of_student, shared = (
            mean((one @ other.transpose(1, 2)).square())
            for one, other in ((teacher, teacher), (student, student), (teacher, student))
        )
    return of_teacher + of_student - 2.0 * shared


def normalized_mse(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared distance between normalised hidden vectors: the patient loss of PKD.

    Sun et al., *Patient Knowledge Distillation for BERT Model Compression* (arXiv 1908.09355), equation 7, for one
    layer, with :math:`h_n` the hidden vectors:

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \left\Vert \frac{h^s_n}{\Vert h^s_n \Vert_2} -
              \frac{h^t_n}{\Vert h^t_n \Vert_2} \right\Vert_2^2

    The paper sums over samples and layers; here it is a mean over the vectors. Each vector contributes its squared norm
    as in the paper (``mse_loss`` on normalised vectors would divide it by their size). For several layers, use one
    match each; their losses are added. The paper compares the hidden state of the first token ([CLS]) of intermediate
    layers, and searches weights from 10 to 1000; here all vectors that are passed count.

    Args:
        student: Vectors ``(B, D)``, tokens ``(B, S, D)``, or maps with the channels in dimension 1; any floating dtype.
        teacher: Features of the same shape. No gradient reaches them.

    Returns:
        A float32 scalar (float64 for float64 inputs), from 0 for equal directions to 4 for opposite directions.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> normalized_mse(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 5.0]])).item()  # orthogonal
        2.0
    """
    student, teacher = ready('normalized_mse', student, teacher)
    dim = channels_dim(student)
    return mean((unit(student, dim) - unit(teacher, dim)).square().sum(dim))
