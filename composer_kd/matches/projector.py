"""The projectors made to measure, which make the student's feature comparable with the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal
from typing_extensions import override

from composer_kd.errors import ConfigError
from composer_kd.losses._common import pooled

__all__ = ['PROJECTORS', 'AutoProjector', 'OrthogonalProjector']

_CONVOLUTIONS = {4: nn.Conv2d, 5: nn.Conv3d}


class AutoProjector(nn.Module):
    """Brings two features to one shape with the smallest operation that fits their shapes.

    ============================================  ======================================================================
    student and teacher                           operation
    ============================================  ======================================================================
    maps ``(B, C, H, W)`` or ``(B, C, D, H, W)``  the larger map is average-pooled to the size of the smaller; if the
                                                  channels differ, a 1x1 convolution maps the student's to the teacher's
    tokens ``(B, S, D)``                          a linear layer if ``D`` differs; ``S`` must be equal
    vectors ``(B, D)``                            a linear layer if ``D`` differs
    of different rank                             both averaged over positions to ``(B, D)``, then treated as vectors
    ============================================  ======================================================================

    Only the student's feature is projected; pooling is applied to either side as needed and has no parameters.

    Args:
        student: The shape of the student's feature, the batch first.
        teacher: The shape of the teacher's feature, the batch first.
        place: The match's name, for the error.

    Raises:
        ConfigError: If none of these operations fits the shapes.

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
                f"{place}: a projector made to measure finds nothing that joins the student's {tuple(student)} and the "
                f"teacher's {tuple(teacher)}; it joins feature maps, vectors, and token sequences of equal length. "
                'Give a module that takes the one to the other.'
            )
        maps = not self.pools and len(student) > 3
        self.is_map = maps
        self.layer = self._joining(_channels(student), _channels(teacher), len(student) if maps else 2)

    def _joining(self, source: int, target: int, rank: int) -> nn.Module:
        """The layer from the student's channels to the teacher's, for maps of a rank above 3 or for vectors."""
        if source == target:
            return nn.Identity()
        return nn.Linear(source, target) if rank < 4 else _CONVOLUTIONS[rank](source, target, kernel_size=1)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Brings both features to one shape.

        Args:
            student: The student's feature.
            teacher: The teacher's feature.
            mask: ``(B, S)`` booleans, the valid tokens, used where tokens are averaged; ``None`` if all are valid.

        Returns:
            Both features, of equal shape.
        """
        if self.pools:
            student, teacher = (pooled(x, mask if x.ndim == 3 else None) for x in (student, teacher))
        if self.is_map and student.shape[2:] != teacher.shape[2:]:
            size = tuple(min(pair) for pair in zip(student.shape[2:], teacher.shape[2:]))
            student, teacher = _resize(student, size), _resize(teacher, size)
        return self.layer(student), teacher


class OrthogonalProjector(AutoProjector):
    r"""An :class:`AutoProjector` whose layer is a linear map with orthonormal rows or columns, without a bias.

    Miles, Elezi and Deng, *VkD: Improving Knowledge Distillation using Orthogonal Projections* (arXiv 2403.06213): a
    projector that keeps lengths and angles leaves nothing of the task of matching to itself. With the student's
    feature :math:`s` of :math:`d_s` channels, the teacher's of :math:`d_t`, and :math:`d_t \ge d_s`:

    .. math:: \hat s = W s, \quad W^\top W = I, \quad W \in \mathbb{R}^{d_t \times d_s}

    (:math:`W W^\top = I` if the student has more channels.) ``W`` stays orthogonal in training, because it is computed
    from a free parameter: :func:`torch.nn.utils.parametrizations.orthogonal`, by the matrix exponential if it is
    square, by Householder reflections else. It is learned also where both have equally many channels. The paper
    normalises the teacher's feature besides: ``Match(partial(hint, standardize=True), on=..., project='orthogonal')``.

    Arguments, pooling and errors are those of :class:`AutoProjector`.

    Example:
        >>> import torch
        >>> join, student = OrthogonalProjector((2, 8), (2, 64)), torch.randn(2, 8)
        >>> projected, _ = join(student, torch.zeros(2, 64))
        >>> torch.allclose(projected @ projected.T, student @ student.T, atol=1e-4)
        True
    """

    @override
    def _joining(self, source: int, target: int, rank: int) -> nn.Module:
        return _OfChannels(orthogonal(nn.Linear(source, target, bias=False)), 1 if rank > 3 else -1)


class _OfChannels(nn.Module):
    """A linear layer on the channels of maps, or of vectors."""

    def __init__(self, linear: nn.Module, dim: int) -> None:
        super().__init__()
        self.linear, self.dim = linear, dim

    def forward(self, feature: Tensor) -> Tensor:
        return self.linear(feature.movedim(self.dim, -1)).movedim(-1, self.dim)


PROJECTORS: Mapping[str, type[AutoProjector]] = {'auto': AutoProjector, 'orthogonal': OrthogonalProjector}
"""The projectors made to measure, by what a match says in ``project``."""


def _channels(shape: tuple[int, ...]) -> int:
    return shape[1] if len(shape) > 3 else shape[-1]


def _resize(maps: Tensor, size: Any) -> Tensor:
    if maps.shape[2:] == size:
        return maps
    return F.adaptive_avg_pool2d(maps, size) if maps.ndim == 4 else F.adaptive_avg_pool3d(maps, size)
