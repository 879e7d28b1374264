"""Numbers of any width in records of bytes, lowest bit first."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from composer_kd.stores.formats.base import Records

__all__ = ['Bits', 'from_records', 'pack', 'to_bits']

Bits = NDArray[np.uint8]
"""``(N, bits)`` Zeros and ones."""


def to_bits(values: NDArray[np.integer], width: int) -> Bits:
    """Writes numbers as bits.

    Args:
        values: ``(N, c)`` Numbers from 0 to ``2 ** width - 1``.
        width: Bits of each, from 0 to 56.

    Returns:
        ``(N, c * width)`` The bits, the lowest of each number first.

    Example:
        >>> to_bits(np.array([[1, 6]]), width=3).tolist()
        [[1, 0, 0, 0, 1, 1]]
    """
    rows, count = values.shape
    octets = np.ascontiguousarray(values, dtype='<u8').view(np.uint8).reshape(rows, count, 8)
    used = octets[:, :, : (width + 7) // 8]
    return np.unpackbits(used, axis=-1, bitorder='little', count=width).reshape(rows, count * width)


def pack(*parts: Bits) -> Records:
    """Makes records of bits, one part after another; zeros fill the last byte."""
    return np.packbits(np.concatenate(parts, axis=1), axis=1, bitorder='little')


def from_records(records: Records, start: int, width: int, count: int) -> NDArray[np.uint64]:
    """Reads numbers of one width that stand one after another in each record.

    Args:
        records: ``(N, bytes)``
        start: The place of the first bit.
        width: Bits of each number, from 0 to 56.
        count: The number of numbers, ``c``.

    Returns:
        ``(N, c)`` uint64.

    Example:
        >>> from_records(pack(to_bits(np.array([[1, 6, 5]]), width=3)), start=3, width=3, count=2).tolist()
        [[6, 5]]
    """
    octets, shifts, mask = _places(start, width, count, records.shape[1])
    words = records.take(octets, axis=1).view(f'<u{octets.shape[1]}')[:, :, 0]
    return ((words >> shifts) & mask).astype(np.uint64, copy=False)


@lru_cache(maxsize=64)
def _places(
    start: int, width: int, count: int, nbytes: int
) -> tuple[NDArray[np.int64], NDArray[np.unsignedinteger], np.unsignedinteger]:
    """For each number the bytes that hold it, as one word, and the place of its lowest bit there."""
    word = 4 if width + 7 <= 32 else 8
    first = start + width * np.arange(count)
    # Bytes behind the end stand for bits that the mask removes.
    octets = np.minimum(first[:, None] // 8 + np.arange(word), nbytes - 1)
    kind = np.dtype(f'<u{word}').type
    return octets, (first % 8).astype(kind), kind(2**width - 1)
