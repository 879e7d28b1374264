"""Helpers of the laws: draw inputs, call losses, apply functions to nested tensors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ['Case', 'logits']


def logits(seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Draws logits of student and teacher, ``(6, 5)`` in float64, and no further arguments.

    Args:
        seed: The seed of the random numbers.

    Returns:
        Student, teacher, and an empty dict.
    """
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, {}


@dataclass(frozen=True)
class Case:
    """A loss and the properties it should have; the fields are the arguments of :func:`check_loss`."""

    loss: Callable[..., Any]
    inputs: Callable[[int], tuple[Any, ...]] = logits
    reference: Callable[..., float] | None = None
    zero_at_equality: bool = True
    minimum_at_equality: bool = True
    repeats: bool = True
    gradcheck: bool = True
    extreme: float = 1e4
    steep: float = 1e3
    classes: bool = False
    empty: bool = False


def drawn(case: Case, seed: int = 0) -> tuple[Any, Any, dict[str, Any]]:
    student, teacher, *extra = case.inputs(seed)
    return student, teacher, dict(*extra)


def value_of(case: Case, student: Any, teacher: Any, extra: dict[str, Any]) -> Tensor:
    """Calls the loss once, from the same random state each time, in the precision of its inputs (float32 at least)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss: Any = case.loss
        if isinstance(loss, nn.Module):
            loss = copy.deepcopy(loss)
            if hasattr(loss, 'build'):
                loss.build(each(student, lambda x: x.shape), each(teacher, lambda x: x.shape))
            loss.to(torch.promote_types(as_list(student)[0].dtype, torch.float32))
        return loss(student, teacher, **extra)


def hold_finite(case: Case, student: Any, teacher: Any, extra: dict[str, Any], what: str) -> Tensor:
    student = student if as_list(student)[0].requires_grad else leaves(student)
    value = value_of(case, student, teacher, extra)
    hold(value.isfinite(), f'the loss is {float(value)!r} for {what}')
    for grad in gradients(value, student):
        hold(grad.isfinite().all(), f'the loss is {float(value)!r}, but its gradient is not finite for {what}')
    return value


def hold(holds: bool | Tensor, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def hold_close(value: float, expected: float, tolerance: float, message: str) -> None:
    hold(math.isclose(value, expected, rel_tol=tolerance, abs_tol=1e-12), message)


def gradients(value: Tensor, inputs: Any) -> list[Tensor]:
    grads = torch.autograd.grad(value, as_list(inputs), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if grad is None else grad for x, grad in zip(as_list(inputs), grads)]


def second_along(value: Tensor, inputs: Any, along: list[Tensor]) -> list[Tensor]:
    """The derivative of the gradient along a direction (the product of the Hessian and that direction)."""
    slopes = torch.autograd.grad(value, as_list(inputs), create_graph=True, allow_unused=True)
    parts = [(slope * way).sum() for slope, way in zip(slopes, along) if slope is not None and slope.requires_grad]
    if not parts:
        return [torch.zeros_like(x) for x in as_list(inputs)]
    return gradients(torch.stack(parts).sum(), inputs)


def steepest(value: Tensor, inputs: Any) -> float:
    return max(float(grad.abs().max()) for grad in gradients(value, inputs))


def counts(mask: Tensor, x: Tensor) -> Tensor:
    """Reshapes a mask, flat or not, so that it broadcasts over ``x``.

    It covers the leading dimensions of ``x``, or queries and keys of attention maps ``(B, H, S, S)``.
    """
    if x.ndim == 4 and mask.ndim == 2 and x.shape[1] != mask.shape[1] and x.shape[2] == x.shape[3] == mask.shape[1]:
        return mask[:, None, :, None] & mask[:, None, None, :]
    for dims in range(1, x.ndim + 1):
        if math.prod(x.shape[:dims]) == mask.numel():
            return mask.reshape(x.shape[:dims] + (1,) * (x.ndim - dims))
    raise ValueError(f'a mask {tuple(mask.shape)} does not fit inputs {tuple(x.shape)}')


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def each(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Applies a function to each tensor in a tensor, list or dict; other values are returned unchanged."""
    if isinstance(value, dict):
        return {name: each(item, function) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [each(item, function) for item in value]
    return function(value) if isinstance(value, Tensor) else value


def leaves(value: Any) -> Any:
    return each(value, lambda x: x.detach().clone().requires_grad_())


def to_float32(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])


def arrays(value: Any) -> Any:
    return each(value, lambda x: x.detach().numpy())
