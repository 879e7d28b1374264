"""Variational information distillation: a learned Gaussian model of the teacher's features given the student's."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import (
    channels_dim,
    check_number,
    check_tensors,
    full_precision,
    in_dtype_of_inputs,
    mean,
    pooled_to_smaller,
    ready,
)

__all__ = ['VID']


class VID(nn.Module):
    r"""Variational information distillation: maximises a lower bound on the mutual information of the features.

    Ahn et al., *Variational Information Distillation for Knowledge Transfer* (arXiv 1904.05835), equations 5 and 6. The
    loss is the negative log-likelihood, up to a constant, of the teacher's features :math:`t` under a Gaussian. A
    regressor predicts its mean :math:`\mu` from the student's features :math:`s`; its variance is learned for each of
    the teacher's channels:

    .. math:: \frac{1}{n} \sum_{i} \frac{1}{2} \left[
              \frac{(\mu_i(s) - t_i)^2}{\sigma_{c(i)}^2} + \log \sigma_{c(i)}^2 \right], \qquad
              \sigma_c^2 = \mathrm{softplus}(\alpha_c) + \epsilon

    The mean runs over all :math:`n` elements, as in published code (weight 1); the paper sums over channels and
    positions. The regressor has three 1x1 convolutions without bias, with ReLU between them: the first maps the
    student's channels to the teacher's, the others keep that number. On vectors and tokens they are linear layers.
    Where maps differ in height or width, the larger one is average-pooled to the smaller size. The value may be
    negative; only its changes are meaningful.

    The module has parameters, which must be in the optimizer. :meth:`build` creates them, or the constructor if both
    numbers of channels are given.

    Args:
        student_channels: Channels of the student's features.
        teacher_channels: Channels of the teacher's features.
        init_var: The initial variance.
        eps: :math:`\epsilon`, the smallest variance.

    Raises:
        ValueError: If only one number of channels is given, a setting is not a positive number, or ``init_var`` is not
            above ``eps``.

    Example:
        >>> import torch
        >>> loss = VID(student_channels=2, teacher_channels=3, init_var=5.0)
        >>> for weight in loss.regressor.parameters():
        ...     torch.nn.init.zeros_(weight)  # mu = 0
        Parameter containing:
        ...
        >>> round(loss(torch.ones(4, 2), torch.full((4, 3), 2.0)).item(), 4)  # (4 / 5 + log 5) / 2
        1.2047
    """

    raw: nn.Parameter | None
    regressor: nn.Module | None

    any_shape = True  # the regressor maps the channels, and pooling adapts the sizes

    def __init__(
        self,
        student_channels: int | None = None,
        teacher_channels: int | None = None,
        init_var: float = 5.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.eps = check_number('VID', 'eps', eps)
        self.init_var = check_number('VID', 'init_var', init_var, least=self.eps)
        self.student_channels = student_channels
        self.teacher_channels = teacher_channels
        self.register_parameter('raw', None)
        self.register_module('regressor', None)
        if (student_channels is None) != (teacher_channels is None):
            raise ValueError(
                'VID: expected both student_channels and teacher_channels, or neither, got '
                f'{student_channels!r} and {teacher_channels!r}'
            )
        if student_channels is not None and teacher_channels is not None:
            self._create(student_channels, teacher_channels)

    def build(self, student_shape: torch.Size, teacher_shape: torch.Size) -> None:
        """Creates the parameters for features of these shapes, or checks the shapes if the parameters exist.

        Args:
            student_shape: The shape of the student's features: ``(B, C, H, W)``, ``(B, S, D)`` or ``(B, D)``.
            teacher_shape: The shape of the teacher's features, of the same kind.

        Raises:
            ValueError: If the shapes do not fit together, or do not fit the existing parameters.
        """
        _check_shapes(student_shape, teacher_shape)
        student, teacher = (shape[channels_dim(shape)] for shape in (student_shape, teacher_shape))
        if self.regressor is None:
            self._create(student, teacher)
        elif (student, teacher) != (self.student_channels, self.teacher_channels):
            raise ValueError(
                f'VID: built for {self.student_channels} channels of the student and {self.teacher_channels} of the '
                f'teacher, got student {tuple(student_shape)} and teacher {tuple(teacher_shape)}'
            )

    def _create(self, student: int, teacher: int) -> None:
        for name, channels in (('student_channels', student), ('teacher_channels', teacher)):
            if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
                raise ValueError(f'VID: {name} must be a positive int, got {channels!r}')
        self.student_channels, self.teacher_channels = student, teacher
        # A linear layer over the channels equals a 1x1 convolution.
        self.regressor = nn.Sequential(
            nn.Linear(student, teacher, bias=False),
            nn.ReLU(),
            nn.Linear(teacher, teacher, bias=False),
            nn.ReLU(),
            nn.Linear(teacher, teacher, bias=False),
        )
        softplus = self.init_var - self.eps
        self.raw = nn.Parameter(torch.full((teacher,), softplus + math.log(-math.expm1(-softplus))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Computes the loss of one (micro)batch.

        Args:
            student: Maps ``(B, C, H, W)``, tokens ``(B, S, D)`` or vectors ``(B, D)``; any floating dtype.
            teacher: The same kind of features with the teacher's channels. No gradient reaches them.

        Returns:
            A float32 scalar (float64 for float64 inputs) in nats, the mean over all elements.

        Raises:
            RuntimeError: If the parameters have not been created yet.
            ValueError: If the features do not fit the parameters or each other.
        """
        if self.regressor is None or self.raw is None:
            raise RuntimeError('VID: call build(student.shape, teacher.shape) first, or give both channels')
        check_tensors('VID', student, teacher)
        self.build(student.shape, teacher.shape)
        student, teacher = ready('VID', student, teacher, same_shape=False)
        if student.ndim > 3:
            student, teacher = pooled_to_smaller(student, teacher)
            student, teacher = student.movedim(1, -1), teacher.movedim(1, -1)
        with full_precision(student):
            predicted = in_dtype_of_inputs(self.regressor, student)
        variance = F.softplus(self.raw.to(predicted.dtype)) + self.eps
        return 0.5 * mean((predicted - teacher).square() / variance + variance.log())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Creates missing parameters with the numbers of channels in the state dict."""
        first = state_dict.get(f'{prefix}regressor.0.weight')
        if self.regressor is None and first is not None:
            self._create(first.shape[1], first.shape[0])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return (
            f'student_channels={self.student_channels}, teacher_channels={self.teacher_channels}, '
            f'init_var={self.init_var}, eps={self.eps}'
        )


def _check_shapes(student: torch.Size, teacher: torch.Size) -> None:
    """Checks that the features are of the same kind, with the same samples and tokens."""
    for side, shape in (('student', student), ('teacher', teacher)):
        if not all(isinstance(size, int) for size in shape):
            raise ValueError(f'VID: expected the shape of one feature of the {side}, got {shape!r}')
    fits = len(student) == len(teacher) >= 2 and student[0] == teacher[0]
    if not fits or (len(student) == 3 and student[1] != teacher[1]):
        raise ValueError(
            'VID: expected two features of the same samples, (B, C, H, W), (B, S, D) or (B, D), got student '
            f'{tuple(student)} and teacher {tuple(teacher)}'
        )
