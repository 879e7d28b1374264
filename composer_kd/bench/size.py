"""Counts a model's floating-point operations, parameters and bytes on disk."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ['count_flops', 'count_parameters', 'size_in_bytes']


def count_flops(module: nn.Module, inputs: tuple[Tensor, ...]) -> float | None:
    """Counts the floating-point operations of a forward pass.

    Matrix products, convolutions and attention are counted; a multiplication and an addition are two operations.
    Elementwise operators (activations, norms) and embedding look-ups are not counted. Fused kernels of recurrent layers
    and of attention are disabled during the count, because ``torch.utils.flop_counter`` cannot count them.

    Args:
        module: Takes tensors and returns logits.
        inputs: The input tensors, for one sample.

    Returns:
        The number of operations, or ``None`` if nothing was counted although the model has parameters: then the counter
        does not know its operators.

    Example:
        >>> count_flops(nn.Linear(4, 3), (torch.zeros(1, 4),))
        24.0
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_without_fused_kernels())
        counter = stack.enter_context(FlopCounterMode(display=False))
        module(*inputs)
    counted = float(counter.get_total_flops())
    return None if not counted and count_parameters(module) else counted


def count_parameters(module: nn.Module) -> int:
    """Counts the parameters of a module, shared ones once.

    Args:
        module: Any module.

    Returns:
        The number of parameters.

    Example:
        >>> count_parameters(nn.Linear(4, 3))
        15
    """
    return sum(parameter.numel() for parameter in module.parameters())


@contextlib.contextmanager
def _without_fused_kernels() -> Iterator[None]:
    mha = torch.backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # oneDNN warns about flags that were never set
            with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
                yield
    finally:
        mha.set_fastpath_enabled(before)


def size_in_bytes(module: torch.nn.Module) -> int:
    """Measures the size of a module's weights on disk.

    Args:
        module: Any module.

    Returns:
        The number of bytes that ``torch.save`` writes for its state dict.

    Example:
        >>> size_in_bytes(torch.nn.Linear(1000, 1)) > 4000
        True
    """
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    return buffer.getbuffer().nbytes
