"""Converts models to the precisions that they are deployed in."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ['PRECISIONS', 'InPrecision', 'copied', 'in_precision']

PRECISIONS: dict[str, torch.dtype] = {
    'fp32': torch.float32,
    'bf16': torch.bfloat16,
    'fp16': torch.float16,
    'int8': torch.float32,
}
"""The dtype of weights and inputs that a backend gets; for int8 the backend quantises them itself."""


class InPrecision(nn.Module):
    """Casts weights and inputs to half precision, as for deployment; callers pass and receive float32.

    It uses ``model.to(dtype)`` rather than ``autocast``: weights take half the memory and disk space, and operators use
    them without a cast at each call. The accuracy shows whether a model needs float32 anywhere.

    Args:
        module: Takes tensors and returns logits; it is modified.
        dtype: The dtype of the weights and the floating-point inputs.

    Example:
        >>> InPrecision(nn.Linear(2, 3), torch.bfloat16)(torch.ones(1, 2)).dtype
        torch.float32
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype

    def forward(self, *tensors: Tensor) -> Tensor:
        """Computes the logits.

        Args:
            tensors: The inputs; integers and booleans keep their dtype.

        Returns:
            The logits in float32.
        """
        cast = [tensor.to(self.dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
        return self.module(*cast).float()


def in_precision(module: nn.Module, precision: str) -> nn.Module:
    """Copies a model and converts the copy to a precision.

    Args:
        module: Takes tensors and returns logits; it is not modified.
        precision: A key of ``PRECISIONS``.

    Returns:
        The copy, in eval mode.
    """
    dtype = PRECISIONS[precision]
    own = copied(module)
    return (own.to(dtype) if dtype is torch.float32 else InPrecision(own, dtype)).eval()


def copied(module: nn.Module) -> nn.Module:
    """A deep copy, which shares no tensor with the module."""
    with torch.no_grad():
        return copy.deepcopy(module)
