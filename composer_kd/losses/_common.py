"""What many losses need: inputs made ready for arithmetic, settings checked, features pooled."""

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
    """Both sides in one dtype, float32 at least, the teacher cut off from the graph.

    Raises:
        ValueError: If a side is no tensor, or the shapes differ where they must not.
    """
    check_tensors(loss, student, teacher)
    if same_shape and student.shape != teacher.shape:
        raise ValueError(f'{loss}: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape')
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def check_tensors(loss: str, student: Any, teacher: Any) -> None:
    """Refuses lists where one tensor of each side is compared."""
    for side, value in (('student', student), ('teacher', teacher)):
        if not isinstance(value, Tensor):
            raise ValueError(f'{loss}: expected the {side} as one tensor, got {described(value)}')


def described(value: Any) -> str:
    """What was given instead of what was expected: shapes, if it has some."""
    if isinstance(value, Tensor):
        return f'one tensor {tuple(value.shape)}'
    if isinstance(value, (list, tuple)) and all(isinstance(item, Tensor) for item in value):
        return f'a list of {len(value)} tensors [{", ".join(str(tuple(item.shape)) for item in value)}]'
    return f'{type(value).__name__} {value!r}'


def valid(loss: str, mask: Any, shape: Sequence[int]) -> Tensor:
    """A mask as booleans of the shape of the positions, given so or flat, as booleans or integers 0 and 1.

    Raises:
        ValueError: If it is none of these, or has another number of positions.
    """
    if not isinstance(mask, Tensor) or mask.numel() != math.prod(shape):
        raise ValueError(f'{loss}: expected a mask {tuple(shape)} or flat, got {described(mask)}')
    if mask.dtype != torch.bool:
        numbers = mask.is_floating_point() or mask.is_complex()
        # Looking at the values would wait for an accelerator.
        if numbers or (mask.device.type == 'cpu' and ((mask != 0) & (mask != 1)).any()):
            raise ValueError(f'{loss}: expected a mask of booleans, or of integers 0 and 1, got other {mask.dtype}')
        mask = mask.bool()
    return mask.reshape(tuple(shape))


def check_temperature(loss: str, temperature: float) -> None:
    """Refuses a temperature that is not a positive finite number, also one set after a module was made."""
    if not 0.0 < temperature < math.inf:
        raise ValueError(f'{loss}: temperature must be a positive finite number, got {temperature!r}')


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half-precision tensors as float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which autocast does not turn matrix products back into half precision."""
    return torch.autocast(tensor.device.type, enabled=False)


def check_samples(loss: str, tensor: Tensor, least: int = 2) -> None:
    """Refuses a batch with too few samples for a relation between them."""
    if tensor.shape[0] < least:
        raise ValueError(
            f'{loss} compares samples with one another: expected a batch of at least {least}, got {tensor.shape[0]}. '
            'Use drop_last=True, or a larger device_train_microbatch_size.'
        )


def check_number(owner: str, name: str, value: Any, least: float = 0.0, strict: bool = True) -> float:
    """A setting as a float.

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
    """Features as one vector per sample: their mean over positions.

    Args:
        features: ``(B, D)``, which stays as it is; ``(B, S, D)`` tokens; or ``(B, C, H, W)`` and other feature maps
            with the channels in dimension 1.
        mask: For tokens, ``(B, S)`` or flat: the positions that count.

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
    """Marks a loss that looks at its features through ``summary`` alone, so that no more need be kept of them."""

    def mark(loss: Loss) -> Loss:
        loss.summary = summary  # type: ignore[attr-defined]
        return loss

    return mark


def channels_dim(features: Tensor | torch.Size) -> int:
    """The dimension of the channels: 1 in feature maps ``(B, C, H, W)``, the last in ``(B, D)`` and ``(B, S, D)``."""
    ndim = features.ndim if isinstance(features, Tensor) else len(features)
    return 1 if ndim > 3 else ndim - 1


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Vectors divided by their L2 norm; those too short to have a direction stay as they are.

    Unlike ``F.normalize``, whose gradient is ``1e12`` times too large there, that of a zero vector is moderate.
    """
    norm = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / torch.where(norm > 1e-12, norm, 1.0)


def pooled_to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps ``(B, C, ...)`` of one, two or three dimensions, the larger average-pooled to the size of the smaller."""
    size = tuple(min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:]))
    pool: Callable[..., Tensor] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(size) - 1]
    student, teacher = (x if x.shape[2:] == size else pool(x, size) for x in (student, teacher))
    return student, teacher


def in_dtype_of_inputs(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Calls a module in the dtype of its inputs, whatever that of its parameters (bfloat16, say)."""
    dtype = inputs[0].dtype
    if all(parameter.dtype == dtype for parameter in module.parameters()):
        return module(*inputs)
    cast = {name: parameter.to(dtype) for name, parameter in module.named_parameters()}
    return torch.func.functional_call(module, cast, inputs)


def joins_any_shape(loss: Loss) -> Loss:
    """Marks a loss that compares features of different shapes in a way of its own."""
    loss.any_shape = True  # type: ignore[attr-defined]
    return loss
