"""Short descriptions of errors, for tables and notes."""

from __future__ import annotations

import torch

from composer_kd.errors import ComposerKDError

__all__ = ['OUT_OF_MEMORY', 'is_out_of_memory', 'reason']

OUT_OF_MEMORY = 'out of memory'
LONGEST = 300

# Messages of torch, ONNX Runtime and C++; compilers wrap such errors in their own exceptions.
_SIGNS = (
    'out of memory',
    "can't allocate memory",
    'not enough memory',
    'failed to allocate memory',
    'bad_alloc',
    'status_alloc_failed',  # cuBLAS, cuDNN
    'resource_exhausted',  # XLA
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the machine ran out of memory.

    Args:
        error: The exception.

    Returns:
        True for torch's and Python's out-of-memory errors, and for other exceptions with such a message.

    Example:
        >>> is_out_of_memory(RuntimeError('CUDA error: out of memory')), is_out_of_memory(RuntimeError('shapes differ'))
        (True, False)
    """
    own = getattr(torch, 'OutOfMemoryError', torch.cuda.OutOfMemoryError)
    return isinstance(error, (own, MemoryError)) or any(sign in str(error).lower() for sign in _SIGNS)


def reason(error: BaseException) -> str:
    """Describes an exception in one line.

    Args:
        error: The exception.

    Returns:
        ``'out of memory'``, the message of an exception of this package, or the type and first line of another one.

    Example:
        >>> reason(ValueError('expected 3 channels\\nand more'))
        'ValueError: expected 3 channels'
    """
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, ComposerKDError):
        return _one_line(str(error))
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
    return _one_line(f'{type(error).__name__}: {first}' if first else type(error).__name__)


def _one_line(text: str) -> str:
    text = ' '.join(text.split())
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 3].rstrip()}...'
