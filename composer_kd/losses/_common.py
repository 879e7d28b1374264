"""Helpers shared by the losses: prepare the inputs, check the settings, pool features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = TypeVar('Loss', bound=Callable[..., Any])

# A logit whose probability is 0 beside any other, and which stays finite in all computations. Just above -1e30, so that
# logits of -1e30 are bounded too, and have the same gradient as any lower ones.
LEAST_LOGIT = -0.9999995e30
NO_DIRECTION = 1e-6  # relative to the longest vector; shorter vectors count as rounding errors without a direction
MOST_SCALED = 1e37  # bound of the least logit divided by the temperature


def ready(loss: str, student: Tensor, teacher: Tensor, same_shape: bool = True) -> tuple[Tensor, Tensor]:
    """Converts student and teacher to one dtype, at least float32, and detaches the teacher.

    Raises:
        ValueError: If one of them is not a tensor, or ``same_shape`` is set and the shapes differ.
    """
    check_tensors(loss, student, teacher)
    if same_shape and student.shape != teacher.shape:
        raise ValueError(f'{loss}: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape')
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def check_tensors(loss: str, student: Any, teacher: Any) -> None:
    """Checks that student and teacher are one tensor each, rather than lists of tensors."""
    for side, value in (('student', student), ('teacher', teacher)):
        if not isinstance(value, Tensor):
            raise ValueError(f'{loss}: expected the {side} as one tensor, got {described(value)}')


def described(value: Any) -> str:
    """Describes a value for an error message: the shape of each tensor, or the type and the value."""
    if isinstance(value, Tensor):
        return f'one tensor {tuple(value.shape)}'
    if isinstance(value, (list, tuple)) and all(isinstance(item, Tensor) for item in value):
        return f'a list of {len(value)} tensors [{", ".join(str(tuple(item.shape)) for item in value)}]'
    return f'{type(value).__name__} {value!r}'


def valid(loss: str, mask: Any, shape: Sequence[int]) -> Tensor:
    """Converts a mask to booleans of the given shape.

    The mask has that shape or is flat, and holds booleans or the integers 0 and 1.

    Raises:
        ValueError: If the number of positions, the dtype or the values are different.
    """
    if not isinstance(mask, Tensor) or mask.numel() != math.prod(shape):
        raise ValueError(f'{loss}: expected a mask {tuple(shape)} or flat, got {described(mask)}')
    if mask.dtype != torch.bool:
        numbers = mask.is_floating_point() or mask.is_complex()
        # Values are checked on the CPU only: reading them from an accelerator would synchronise with it.
        if numbers or (mask.device.type == 'cpu' and ((mask != 0) & (mask != 1)).any()):
            raise ValueError(f'{loss}: expected a mask of booleans, or of integers 0 and 1, got other {mask.dtype}')
        mask = mask.bool()
    return mask.reshape(tuple(shape))


def check_temperature(loss: str, temperature: float) -> None:
    """Checks that a temperature is a positive finite number; called in each forward pass, since it may be scheduled."""
    if not 0.0 < temperature < math.inf:
        raise ValueError(f'{loss}: temperature must be a positive finite number, got {temperature!r}')


def least_logit(temperature: float) -> float:
    """The smallest logit that a softmax at this temperature is given: -1e30, or less in size for tiny temperatures."""
    return -min(-LEAST_LOGIT, MOST_SCALED * temperature)


def bounded(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Raises the logits of excluded classes to at least :func:`least_logit`.

    Classes are excluded (padded vocabularies, classes of other tasks) by ``torch.finfo(dtype).min`` or minus infinity,
    which overflow or become NaN when they are scaled or subtracted. Expects float32 or float64.
    """
    return logits.clamp(min=least_logit(temperature))


def mean(values: Tensor, dim: int | None = None) -> Tensor:
    """Averages values, over a dimension if given; the mean of nothing is 0, with a graph, instead of NaN."""
    if dim is None:
        return values.mean() if values.numel() else values.sum()
    return values.mean(dim) if values.shape[dim] else values.sum(dim)


def mean_squared(loss: str, student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared error of tensors of one shape; 0 for tensors without elements."""
    student, teacher = ready(loss, student, teacher)
    return F.mse_loss(student, teacher) if student.numel() else student.sum()


def at_least_float32(tensor: Tensor) -> Tensor:
    """Converts half-precision tensors to float32 and returns other tensors unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Returns a context without autocast, in which matrix products keep the dtype of their inputs."""
    return torch.autocast(tensor.device.type, enabled=False)


def check_samples(loss: str, tensor: Tensor, least: int = 2) -> None:
    """Checks that a batch has at least ``least`` samples, for losses that compare samples with each other."""
    if tensor.shape[0] < least:
        raise ValueError(
            f'{loss} compares samples with one another: expected a batch of at least {least}, got {tensor.shape[0]}. '
            'Use drop_last=True, or a larger device_train_microbatch_size.'
        )


def same_samples(loss: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Checks that both have the same number of samples, at least two, and prepares them with :func:`ready`."""
    check_tensors(loss, student, teacher)
    if student.shape[:1] != teacher.shape[:1] or student.ndim < 2 or teacher.ndim < 2:
        raise ValueError(
            f'{loss}: expected features (B, ...) of the same samples, got student {tuple(student.shape)} and '
            f'teacher {tuple(teacher.shape)}'
        )
    check_samples(loss, student)
    return ready(loss, student, teacher, same_shape=False)


def check_number(owner: str, name: str, value: Any, least: float = 0.0, strict: bool = True) -> float:
    """Checks a numeric setting and returns it as a float.

    Raises:
        ValueError: If it is not a finite number above ``least`` (or at least ``least``, if not ``strict``).
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < least or (strict and value == least):
        bound = f'a finite number {"above" if strict else "of at least"} {least:g}'
        raise ValueError(
            f'{owner}: {name} must be {"a positive finite number" if strict and least == 0 else bound}, got {value!r}'
        )
    return float(value)


def pooled(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Averages features over positions, which gives one vector per sample.

    Args:
        features: ``(B, D)``, returned unchanged; tokens ``(B, S, D)``; or feature maps ``(B, C, H, W)``, or of another
            number of dimensions, with the channels in dimension 1.
        mask: For tokens only, ``(B, S)`` or flat: the mean runs over the positions that are ``True``.

    Returns:
        ``(B, D)``.
    """
    if features.ndim <= 2:
        return features
    if features.ndim > 3:
        return mean(features.flatten(2), -1)
    if mask is None:
        return mean(features, 1)
    kept = valid('pooled', mask, features.shape[:2]).unsqueeze(-1)
    return features.where(kept, 0.0).sum(1) / kept.sum(1).clamp(min=1)


def reads(summary: Callable[..., Tensor]) -> Callable[[Loss], Loss]:
    """Marks a loss that uses only ``summary(features)``, so that only the summary is kept from the forward pass."""

    def mark(loss: Loss) -> Loss:
        loss.summary = summary  # type: ignore[attr-defined]
        return loss

    return mark


def over_classes(loss: Loss) -> Loss:
    """Marks a loss over the classes of logits, which takes them in the last dimension wherever a model has them."""
    loss.softmax_dim = -1  # type: ignore[attr-defined]
    return loss


def joins_classes(loss: Loss) -> Loss:
    """Marks a divergence of two distributions, which may be taken after the same classes are joined in both."""
    loss.joins_classes = True  # type: ignore[attr-defined]
    return loss


def takes_maps(loss: Loss) -> Loss:
    """Marks a loss that compares whole maps ``(B, C, H, W)``, also of logits, not position by position."""
    loss.of_maps = True  # type: ignore[attr-defined]
    return loss


def channels_dim(features: Tensor | torch.Size) -> int:
    """Returns the dimension of the channels: 1 in maps ``(B, C, H, W)``, the last in ``(B, D)`` and ``(B, S, D)``."""
    ndim = features.ndim if isinstance(features, Tensor) else len(features)
    return 1 if ndim > 3 else ndim - 1


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Divides vectors by their L2 norm; vectors with a norm of at most 1e-12 are returned unchanged.

    This keeps the gradient of a zero vector moderate; with ``F.normalize`` it is ``1e12`` times as large.
    """
    return vectors / length(vectors, torch.linalg.vector_norm(vectors.detach(), dim=dim, keepdim=True) > 1e-12, dim)


def directions(vectors: Tensor) -> Tensor:
    """Scales vectors ``(..., D)`` to length 1; vectors too short to have a direction become 0, with gradient 0."""
    with torch.no_grad():
        lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        directed = lengths > NO_DIRECTION * lengths.amax()
    return torch.where(directed, vectors, 0.0) / length(vectors, directed)


def length(vectors: Tensor, directed: Tensor, dim: int = -1) -> Tensor:
    """The L2 norm where ``directed`` is true, else 1, with first and second derivatives that are finite everywhere.

    The derivatives of ``vector_norm`` at a zero vector are NaN from the second on, also behind a ``where``.
    """
    return torch.where(directed, vectors.square().sum(dim, keepdim=True), 1.0).sqrt()


def pooled_to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pools maps ``(B, C, ...)`` with one to three spatial dimensions, the larger to the smaller size."""
    size = tuple(min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:]))
    pool: Callable[..., Tensor] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(size) - 1]
    student, teacher = (x if x.shape[2:] == size else pool(x, size) for x in (student, teacher))
    return student, teacher


def in_dtype_of_inputs(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Calls a module with its parameters (in bfloat16, for example) converted to the dtype of the inputs."""
    dtype = inputs[0].dtype
    if all(parameter.dtype == dtype for parameter in module.parameters()):
        return module(*inputs)
    cast = {name: parameter.to(dtype) for name, parameter in module.named_parameters()}
    return torch.func.functional_call(module, cast, inputs)


def joins_any_shape(loss: Loss) -> Loss:
    """Marks a loss that accepts student and teacher features of different shapes."""
    loss.any_shape = True  # type: ignore[attr-defined]
    return loss


def relates_samples(loss: Loss) -> Loss:
    """Marks a loss that compares the samples of a batch with one another, so that it is no mean over samples."""
    loss.relates_samples = True  # type: ignore[attr-defined]
    return loss
