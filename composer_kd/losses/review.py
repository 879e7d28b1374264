"""Knowledge review: a loss over several layers, in which deep features of the student are fused into shallow ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import described, full_precision, in_dtype_of_inputs, ready

__all__ = ['ReviewKD']

POOLS = (4, 2, 1)
MOST_MID_CHANNELS = 512


class ReviewKD(nn.Module):
    r"""Knowledge review: each layer of the teacher is matched by the student's layer of that level and all deeper ones.

    Chen et al., *Distilling Knowledge via Knowledge Review* (arXiv 2104.09044), in the residual form of section 3.2.
    From the deepest level to the shallowest, the fused features of the next deeper level :math:`r_{i+1}` are fused with
    the student's features :math:`f_i` by attention (ABF), and the result is compared with the teacher's features
    :math:`t_i`:

    .. math:: x_i = \mathrm{BN}(\mathrm{conv}_{1 \times 1}(f_i)), \quad
              (a, b) = \sigma(\mathrm{conv}_{1 \times 1}[x_i, r_{i+1}]), \quad r_i = a \, x_i + b \, r_{i+1}, \\
              L = \sum_i \mathrm{HCL}\left(\mathrm{BN}(\mathrm{conv}_{3 \times 3}(r_i)),\, t_i\right)

    At the deepest level, :math:`r_i = x_i`. :math:`r_{i+1}` is resized (nearest) to the student's map, and :math:`r_i`
    to the teacher's. The hierarchical context loss (HCL) of a level is the mean squared error of the whole maps and of
    the maps average-pooled to 4x4, 2x2 and 1x1, with weights 1, 1/2, 1/4 and 1/8, divided by the sum of the weights
    used:

    .. math:: \mathrm{HCL}(x, t) = \frac{\sum_k 2^{-k} \, \mathrm{MSE}(\mathrm{pool}_k(x), \mathrm{pool}_k(t))}
              {\sum_k 2^{-k}}

    As in the authors' code, only pooled sizes smaller than the map are used, and the levels are summed. Usual weight: 5
    on CIFAR (0.6 and 1 are published too), increased from 0 over the first 20 epochs. The authors take the features
    before the last ReLU of each stage, and the pooled features before the classifier as the deepest level.

    The module has parameters, which must be in the optimizer. :meth:`build` creates them, or the constructor if both
    lists of channels are given. BatchNorm always uses the statistics of the batch and keeps no running statistics,
    since a loss is computed in training only.

    Args:
        student_channels: Channels of the student's features, from shallow to deep.
        teacher_channels: Channels of the teacher's features, from shallow to deep.
        mid_channels: Channels of the fused features. The default, as in the authors' code for CIFAR, is the number of
            channels of the student's deepest features, at most 512; their code for ImageNet uses 256 for small
            students.

    Raises:
        ValueError: If only one list is given, the lists differ in length, or a number of channels is not a positive
            integer.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(2)
        >>> loss = ReviewKD(student_channels=[4, 8], teacher_channels=[6, 12])
        >>> student = [1e4 * torch.arange(8.0).reshape(2, 4), 1e4 * torch.arange(16.0).reshape(2, 8)]
        >>> teacher = [torch.zeros(2, 6), torch.zeros(2, 12)]
        >>> round(loss(student, teacher).item(), 1)  # the output of BatchNorm has a mean square of 1 on both levels
        2.0
    """

    def __init__(
        self,
        student_channels: Sequence[int] | None = None,
        teacher_channels: Sequence[int] | None = None,
        mid_channels: int | None = None,
    ) -> None:
        super().__init__()
        if (student_channels is None) != (teacher_channels is None):
            raise ValueError(
                'ReviewKD: expected both student_channels and teacher_channels, or neither, got '
                f'{student_channels!r} and {teacher_channels!r}'
            )
        if mid_channels is not None:
            _check_channels('mid_channels', [mid_channels])
        self.student_channels: list[int] | None = None
        self.teacher_channels: list[int] | None = None
        self.mid_channels = mid_channels
        self.fusions = nn.ModuleList()
        if student_channels is not None and teacher_channels is not None:
            self._create(list(student_channels), list(teacher_channels))

    def build(self, student_shapes: Sequence[torch.Size], teacher_shapes: Sequence[torch.Size]) -> None:
        """Creates the parameters for features of these shapes, or checks the shapes if the parameters exist.

        Args:
            student_shapes: The shape of each of the student's features, from shallow to deep: ``(B, C, H, W)`` or
                ``(B, C)``.
            teacher_shapes: The same for the teacher.

        Raises:
            ValueError: If the shapes do not fit together, or do not fit the existing parameters.
        """
        for side, shapes in (('student', student_shapes), ('teacher', teacher_shapes)):
            if isinstance(shapes, torch.Size) or not all(isinstance(shape, Sequence) for shape in shapes):
                raise ValueError(f"ReviewKD: expected the {side}'s shapes as a list of them, got {shapes!r}")
        if len(student_shapes) != len(teacher_shapes) or not len(student_shapes):
            raise ValueError(
                'ReviewKD: expected as many levels of the student as of the teacher, at least one, got '
                f'{len(student_shapes)} and {len(teacher_shapes)}'
            )
        for student, teacher in zip(student_shapes, teacher_shapes):
            if len(student) not in (2, 4) or len(teacher) not in (2, 4) or student[0] != teacher[0]:
                raise ValueError(
                    'ReviewKD: expected maps (B, C, H, W) or pooled features (B, C) of the same samples, got student '
                    f'{tuple(student)} and teacher {tuple(teacher)}'
                )
        channels = [[shape[1] for shape in shapes] for shapes in (student_shapes, teacher_shapes)]
        if not self.fusions:
            self._create(*channels)
        elif channels != [self.student_channels, self.teacher_channels]:
            raise ValueError(
                f'ReviewKD: built for {self.student_channels} channels of the student and {self.teacher_channels} of '
                f'the teacher, got {channels[0]} and {channels[1]}'
            )

    def _create(self, student: list[int], teacher: list[int]) -> None:
        if len(student) != len(teacher) or not student:
            raise ValueError(
                'ReviewKD: student_channels and teacher_channels must have the same length, at least one, got '
                f'{student} and {teacher}'
            )
        _check_channels('student_channels', student)
        _check_channels('teacher_channels', teacher)
        self.student_channels, self.teacher_channels = student, teacher
        self.mid_channels = self.mid_channels or min(MOST_MID_CHANNELS, student[-1])
        deepest = len(student) - 1
        for level, (channels, target) in enumerate(zip(student, teacher)):
            self.fusions.append(_Fusion(channels, self.mid_channels, target, fuses=level < deepest))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Computes the loss of one (micro)batch.

        Args:
            student: Features from shallow to deep: maps ``(B, C, H, W)``, or ``(B, C)`` for maps of 1x1. Any floating
                dtype.
            teacher: The same number of features of the teacher. No gradient reaches them.

        Returns:
            A float32 scalar (float64 for float64 inputs): for each level a mean over its elements, summed over levels.

        Raises:
            RuntimeError: If the parameters have not been created yet.
            ValueError: If the features fit neither the parameters nor each other, or BatchNorm has only one value per
                channel.
        """
        if not self.fusions:
            raise RuntimeError('ReviewKD: call build(student shapes, teacher shapes) first, or give both channels')
        for side, features in (('student', student), ('teacher', teacher)):
            if not isinstance(features, (list, tuple)) or not all(isinstance(x, Tensor) for x in features):
                raise ValueError(
                    f'ReviewKD: expected the {side} as a list of features from shallow to deep, got '
                    f'{described(features)}'
                )
        self.build([x.shape for x in student], [x.shape for x in teacher])
        with full_precision(student[0]):
            return self._of_levels(student, teacher)

    def _of_levels(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        deeper: Tensor | None = None
        losses = []
        for fusion, own, target in reversed(list(zip(self.fusions, student, teacher))):
            own, target = (_as_map(x) for x in ready('ReviewKD', own, target, same_shape=False))
            if own.shape[0] * min(math.prod(own.shape[2:]), math.prod(target.shape[2:])) < 2:
                raise ValueError(
                    'ReviewKD: BatchNorm needs more than one value per channel, got features '
                    f'{tuple(own.shape)} of the student and {tuple(target.shape)} of the teacher. '
                    'Use drop_last=True, or a larger device_train_microbatch_size.'
                )
            inputs = (own, target) if deeper is None else (own, target, deeper)
            answer, deeper = in_dtype_of_inputs(fusion, *inputs)
            losses.append(_hierarchical_context(answer, target))
        return torch.stack(losses).sum()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Creates missing parameters with the numbers of channels in the state dict."""
        student: list[int] = []
        teacher: list[int] = []
        while (weight := state_dict.get(f'{prefix}fusions.{len(student)}.reduce.0.weight')) is not None:
            target = state_dict.get(f'{prefix}fusions.{len(student)}.expand.0.weight')
            student.append(weight.shape[1])
            teacher.append(weight.shape[1] if target is None else target.shape[0])  # super() reports missing keys
            mid = weight.shape[0]
        if student and not self.fusions:
            self.mid_channels = self.mid_channels or mid
            self._create(student, teacher)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return (
            f'student_channels={self.student_channels}, teacher_channels={self.teacher_channels}, '
            f'mid_channels={self.mid_channels}'
        )


class _Fusion(nn.Module):
    """Attention-based fusion of the student's features at one level with the fused features of the next deeper one."""

    def __init__(self, channels: int, mid: int, target: int, fuses: bool) -> None:
        super().__init__()
        self.reduce = _conv_norm(channels, mid, 1)
        self.attention = nn.Conv2d(2 * mid, 2, 1) if fuses else None
        self.expand = _conv_norm(mid, target, 3)

    def forward(self, own: Tensor, target: Tensor, deeper: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the prediction for the teacher's features and the fused features; ``target`` gives the size."""
        fused = self.reduce(own)
        if self.attention is not None and deeper is not None:
            deeper = _resized(deeper, fused)
            shares = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        fused = _resized(fused, target)
        return self.expand(fused), fused


def _conv_norm(channels: int, to: int, size: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, to, size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(to, track_running_stats=False))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return x if x.shape[2:] == like.shape[2:] else F.interpolate(x, like.shape[2:], mode='nearest')


def _as_map(features: Tensor) -> Tensor:
    return features if features.ndim == 4 else features[:, :, None, None]


def _hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """The weighted mean squared error of the whole maps and of the maps pooled to smaller sizes."""
    difference = student - teacher  # pooling is linear: pool once instead of twice
    loss, weight, weights = difference.square().mean(), 1.0, 1.0
    for size in POOLS:
        if size < max(student.shape[2:]):
            weight /= 2
            loss = loss + weight * F.adaptive_avg_pool2d(difference, size).square().mean()
            weights += weight
    return loss / weights


def _check_channels(name: str, channels: Sequence[int]) -> None:
    for number in channels:
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f'ReviewKD: {name} must be positive integers, got {number!r}')
