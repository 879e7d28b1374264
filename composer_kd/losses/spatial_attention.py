"""Self attention distillation: a layer's spatial attention map as the target of an earlier layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from composer_kd.losses._common import check_tensors, mean, ready, takes_maps

__all__ = ['sad']


@takes_maps
def sad(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared difference of the softmax of the spatial attention maps: self attention distillation.

    Hou et al., *Learning Lightweight Lane Detection CNNs by Self Attention Distillation* (arXiv 1908.00821), where a
    deeper layer of a net teaches an earlier one: ``Match(sad, on=('layer1', 'layer2'), teacher='student')``. A softmax
    :math:`\Phi` makes the attention map :math:`\sum_c f_c^2` a distribution over the positions:

    .. math:: \Psi(f) = \Phi\left(\mathcal{B}\left(\sum_c f_c^2\right)\right), \qquad
              \frac{1}{B} \sum_b \left\Vert \Psi(s_b) - \Psi(t_b) \right\Vert_2^2

    Where the layers differ in height or width, :math:`\mathcal{B}` enlarges the smaller map by bilinear interpolation.
    The paper writes the distance :math:`L_2` without its scale; here it is the sum over positions and the mean over
    samples. Layers may differ in channels and need no projector. The paper adds it to a half-trained net, with the
    weight 0.1.

    Args:
        student: Feature maps ``(B, C, H, W)``; any floating dtype.
        teacher: Maps of the same samples. No gradient reaches them.

    Returns:
        A float32 scalar (float64 for float64 inputs) from 0 for equal maps to 2.

    Raises:
        ValueError: If the features are not maps of the same samples.

    Example:
        >>> import torch
        >>> student = torch.tensor([[[[0.0, 0.0]]]])  # 1/2, 1/2
        >>> teacher = torch.tensor([[[[3.0, 1.0]]]]).log().sqrt()  # 3/4, 1/4
        >>> round(sad(student, teacher).item(), 4)  # 1/16 + 1/16
        0.125
    """
    check_tensors('sad', student, teacher)
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f'sad: expected two feature maps (B, C, H, W) of the same samples, got student {tuple(student.shape)} and '
            f'teacher {tuple(teacher.shape)}'
        )
    maps = [x.square().sum(1, keepdim=True) for x in ready('sad', student, teacher, same_shape=False)]
    size = [max(sizes) for sizes in zip(*(one.shape[2:] for one in maps))]
    student, teacher = (_enlarged(one, size).flatten(1).softmax(1) for one in maps)
    return mean((student - teacher).square().sum(1))


def _enlarged(maps: Tensor, size: list[int]) -> Tensor:
    if list(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode='bilinear', align_corners=False)
