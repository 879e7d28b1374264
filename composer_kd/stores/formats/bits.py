"""Numbers of any width as rows of bits, lowest bit first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ['from_bits', 'to_bits']

Bits = NDArray[np.uint8]


def to_bits(values: NDArray[np.integer], width: int) -> Bits:
    """Writes numbers as bits.

    Args:
        values: ``(N, c)`` Numbers from 0 to ``2 ** width - 1``.
        width: Bits of each, from 0 to 63.

    Returns:
        ``(N, c * width)`` Zeros and ones, uint8, the lowest bit of each number first.

    Example:
        >>> to_bits(np.array([[1, 6]]), width=3).tolist()
        [[1, 0, 0, 0, 1, 1]]
    """
    rows, count = values.shape
    octets = np.ascontiguousarray(values, dtype='<u8').view(np.uint8).reshape(rows, count, 8)
    used = octets[:, :, : (width + 7) // 8]
    return np.unpackbits(used, axis=-1, bitorder='little', count=width).reshape(rows, count * width)


def from_bits(bits: Bits, width: int) -> NDArray[np.int64]:
    """Reads what :func:`to_bits` wrote.

    Args:
        bits: ``(N, c * width)`` Zeros and ones, uint8.
        width: Bits of each number, from 1 to 63.

    Returns:
        ``(N, c)`` The numbers, int64.

    Example:
        >>> from_bits(np.array([[1, 0, 0, 0, 1, 1]], dtype=np.uint8), width=3).tolist()
        [[1, 6]]
    """
    rows, count = bits.shape[0], bits.shape[1] // width
    octets = np.packbits(bits.reshape(rows, count, width), axis=-1, bitorder='little')
    whole = np.zeros((rows, count, 8), np.uint8)
    whole[:, :, : octets.shape[-1]] = octets
    return whole.view('<i8')[:, :, 0].astype(np.int64, copy=False)
