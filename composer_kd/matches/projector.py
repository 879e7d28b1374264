"""What makes a student's feature comparable with a teacher's."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.losses._common import pooled

__all__ = ['AutoProjector']

_CONVOLUTIONS = {4: nn.Conv2d, 5: nn.Conv3d}


class AutoProjector(nn.Module):
    """Joins two features by the least that fits: a 1x1 convolution, a linear layer, pooling, or nothing.

    ====================================  ==========================================================================
    student and teacher                   what happens
    ====================================  ==========================================================================
    maps ``(B, C, H, W)`` (or ``D, H, W``)  the larger map is average-pooled to the smaller; a 1x1 convolution takes the
                                          student's channels to the teacher's where they differ
    tokens ``(B, S, D)``                  a linear layer where ``D`` differs; ``S`` must agree
    vectors ``(B, D)``                    a linear layer where ``D`` differs
    of different rank                     both are averaged over positions to ``(B, D)``, then as vectors
    ====================================  ==========================================================================

    Only the student is projected; pooling is done to both sides as needed, and learns nothing.

    Args:
        student: The shape of the student's feature, the batch first.
        teacher: That of the teacher's.
        place: Names the two, for the error.

    Raises:
        ConfigError: If nothing here joins the shapes.

    Example:
        >>> import torch
        >>> join = AutoProjector((8, 16, 8, 8), (8, 64, 4, 4))
        >>> [tuple(x.shape) for x in join(torch.zeros(2, 16, 8, 8), torch.zeros(2, 64, 4, 4))]
        [(2, 64, 4, 4), (2, 64, 4, 4)]
        >>> AutoProjector((8, 16, 5, 5), (8, 16, 5, 5)).layer
        Identity()
    """

    def __init__(self, student: tuple[int, ...], teacher: tuple[int, ...], place: str = '') -> None:
        super().__init__()
        self.pools = len(student) != len(teacher)
        tokens_differ = len(student) == len(teacher) == 3 and student[1] != teacher[1]
        if min(len(student), len(teacher)) < 2 or max(len(student), len(teacher)) > 5 or tokens_differ:
            raise ConfigError(
                f"{place}: project='auto' finds nothing that joins the student's {tuple(student)} and the teacher's "
                f'{tuple(teacher)}; it joins feature maps, vectors, and token sequences of equal length. Give a module '
                'that takes the one to the other.'
            )
        maps = not self.pools and len(student) > 3
        self.is_map = maps
        source, target = _channels(student), _channels(teacher)
        self.layer: nn.Module = nn.Identity()
        if source != target:
            conv = _CONVOLUTIONS[len(student)] if maps else None
            self.layer = conv(source, target, kernel_size=1) if conv else nn.Linear(source, target)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both features in one shape.

        Args:
            student: The student's feature.
            teacher: The teacher's.
            mask: ``(B, S)`` booleans, the tokens that count where tokens are averaged.
        """
        if self.pools:
            student, teacher = (pooled(x, mask if x.ndim == 3 else None) for x in (student, teacher))
        if self.is_map and student.shape[2:] != teacher.shape[2:]:
            size = tuple(min(pair) for pair in zip(student.shape[2:], teacher.shape[2:]))
            student, teacher = _resize(student, size), _resize(teacher, size)
        return self.layer(student), teacher


def _channels(shape: tuple[int, ...]) -> int:
    return shape[1] if len(shape) > 3 else shape[-1]


def _resize(maps: Tensor, size: Any) -> Tensor:
    if maps.shape[2:] == size:
        return maps
    return F.adaptive_avg_pool2d(maps, size) if maps.ndim == 4 else F.adaptive_avg_pool3d(maps, size)
