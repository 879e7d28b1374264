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
        return features.flatten(2).mean(-1)
    if mask is None:
        return features.mean(1)
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
    norm = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / torch.where(norm > 1e-12, norm, 1.0)


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
