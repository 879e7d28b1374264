"""Models in the precisions that they are deployed in."""

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
"""What weights and inputs are before a backend sees them; int8 is made by the backend itself."""


class InPrecision(nn.Module):
    """Casts weights and inputs, as one deploys in half precision; the caller gives and gets float32 all the same.

    This is ``model.to(dtype)`` and not ``autocast``: weights take half the memory and the disk, and no operator
    casts them again at each call. What needs float32 to be right shows in the accuracy.

    Args:
        module: Tensors in, logits out; it is changed.
        dtype: Of its weights and its inputs with a fraction.

    Example:
        >>> InPrecision(nn.Linear(2, 3), torch.bfloat16)(torch.ones(1, 2)).dtype
        torch.float32
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype

    def forward(self, *tensors: Tensor) -> Tensor:
        """Answers.

        Args:
            tensors: The inputs; whole numbers and booleans stay what they are.

        Returns:
            The logits in float32.
        """
        cast = [tensor.to(self.dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
        return self.module(*cast).float()


def in_precision(module: nn.Module, precision: str) -> nn.Module:
    """A model in a precision.

    Args:
        module: Tensors in, logits out; left as it is.
        precision: A key of ``PRECISIONS``.

    Returns:
        A copy of it, in eval mode.
    """
    dtype = PRECISIONS[precision]
    own = copied(module)
    return (own.to(dtype) if dtype is torch.float32 else InPrecision(own, dtype)).eval()


def copied(module: nn.Module) -> nn.Module:
    """A copy that shares nothing."""
    with torch.no_grad():
        return copy.deepcopy(module)
