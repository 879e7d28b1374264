"""Refuses second derivatives of functions whose backward pass is computed outside of autograd."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Backward = Callable[..., Any]


def once_only(what: str, instead: str) -> Callable[[Backward], Backward]:
    """Marks the backward pass of an autograd function as not differentiable.

    torch's own ``once_differentiable`` raises an error only where the incoming gradient itself depends on the inputs.
    The incoming gradient of a loss is usually a constant, and a gradient penalty would then silently contribute 0.
    Here the returned gradient depends on the saved tensors too, and raises an error if it is differentiated.

    Args:
        what: What has no second derivative, for the message.
        instead: What to do instead, a sentence.

    Returns:
        A decorator for ``backward(ctx, *grads)``; it goes below ``@staticmethod``.
    """
    message = (
        f'{what} has no second derivative: its gradient cannot be differentiated (create_graph=True, as in gradient '
        f'penalties and Hessians). {instead}'
    )

    def mark(backward: Backward) -> Backward:
        @functools.wraps(backward)
        def wrapped(ctx: Any, *grads: Any) -> Any:
            sources = [x for x in (*ctx.saved_tensors, *grads) if isinstance(x, Tensor)]
            with torch.no_grad():
                found = backward(ctx, *grads)
            if not torch.is_grad_enabled():
                return found
            several = isinstance(found, tuple)
            refusing = [
                _Refusal.apply(message, x, *sources) if isinstance(x, Tensor) else x
                for x in (found if several else (found,))
            ]
            return tuple(refusing) if several else refusing[0]

        return wrapped

    return mark


class _Refusal(torch.autograd.Function):
    """Passes a gradient on; raises an error where it is differentiated."""

    @staticmethod
    def forward(ctx: Any, message: str, gradient: Tensor, *sources: Tensor) -> Tensor:
        ctx.message = message
        return gradient.view_as(gradient)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(ctx.message)
