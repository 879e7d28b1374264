"""A loss on the relation between the features of consecutive layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from composer_kd.losses._common import described, full_precision, mean, ready

__all__ = ['fsp']


def fsp(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    r"""Flow of the solution procedure (FSP): mean squared error of Gram matrices between the channels of two layers.

    Yim, Joo, Bae and Kim, *A Gift from Knowledge Distillation* (CVPR 2017), equations 1 and 2. For feature maps
    :math:`F` and :math:`F'` of two layers:

    .. math:: G_{c,d} = \frac{1}{H W} \sum_{h,w} F_{c,h,w} F'_{d,h,w}, \qquad
              \mathrm{mean}_{c,d} \left( G^s_{c,d} - G^t_{c,d} \right)^2

    As in the paper, the larger map of a pair is max-pooled to the size of the smaller (RepDistiller's code uses average
    pooling). The paper sums the squares; here, as in that code, the loss is the mean over the matrix, the batch, and
    the pairs of consecutive layers. The paper trains with this loss alone first, to initialise the student; usual
    weight: 1. Choose layers of equal width in student and teacher. Computed in float32 (float64 for float64 inputs),
    also under autocast.

    Args:
        student: Two or more feature maps ``(B, C_i, H_i, W_i)``, in the order of the layers; any floating dtype.
        teacher: The same number of maps with the same channels ``C_i``; heights and widths may differ. No gradient
            reaches them.

    Returns:
        A float32 scalar (float64 for float64 inputs); 0 for equal inputs.

    Raises:
        ValueError: If student and teacher are not lists of the same number of maps, at least two, or differ in batch
            size or channels.

    Example:
        >>> import torch
        >>> student = [torch.full((1, 1, 4, 4), 3.0), torch.full((1, 2, 2, 2), 1.0)]  # G = (3, 3)
        >>> teacher = [torch.full((1, 1, 2, 2), 2.0), torch.full((1, 2, 2, 2), 1.0)]  # G = (2, 2)
        >>> fsp(student, teacher).item()
        1.0
    """
    shapes = _shapes('student', student), _shapes('teacher', teacher)
    if [shape[:2] for shape in shapes[0]] != [shape[:2] for shape in shapes[1]]:
        raise ValueError(
            f'fsp: student and teacher must agree in number of maps, batch and channels, got student '
            f'{_listed(shapes[0])} and teacher {_listed(shapes[1])}. Choose layers of equal width: a match projects no '
            'lists of layers (a loop of your own may).'
        )
    ready_pairs = [ready('fsp', one, other, same_shape=False) for one, other in zip(student, teacher)]
    with full_precision(student[0]):
        losses = [
            mean((_flow(before[0], after[0]) - _flow(before[1], after[1])).square())
            for before, after in pairwise(ready_pairs)
        ]
    return torch.stack(losses).mean()


def _shapes(side: str, maps: Sequence[Tensor]) -> list[tuple[int, ...]]:
    listed = isinstance(maps, (list, tuple)) and all(isinstance(features, Tensor) for features in maps)
    shapes = [tuple(features.shape) for features in maps] if listed else []
    if len(shapes) < 2 or any(len(shape) != 4 for shape in shapes):
        raise ValueError(
            f'fsp: expected the {side} as a list of two or more feature maps (B, C, H, W), got {described(maps)}'
        )
    return shapes


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return f'[{", ".join(map(str, shapes))}]'


def _flow(before: Tensor, after: Tensor) -> Tensor:
    """Computes the products of channels ``(B, C, D)``, averaged over positions."""
    height, width = (min(sizes) for sizes in zip(before.shape[2:], after.shape[2:]))
    before, after = (_shrunk(features, height, width).flatten(2) for features in (before, after))
    return before @ after.transpose(1, 2) / (height * width)


def _shrunk(features: Tensor, height: int, width: int) -> Tensor:
    rows, columns = features.shape[2:]
    if rows % height == 0 and columns % width == 0:  # deterministic on CUDA, unlike adaptive pooling
        kernel = (rows // height, columns // width)
        return features if kernel == (1, 1) else F.max_pool2d(features, kernel)
    return F.adaptive_max_pool2d(features, (height, width))
