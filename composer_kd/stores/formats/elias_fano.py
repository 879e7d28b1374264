"""Sorted class numbers in a fixed number of bits, by the code of Elias (1974) and Fano (1971).

The low bits of each number stand as they are. Of the high bits, the j-th number sets bit ``high_j + j`` of a row: as
many ones as numbers, and at most as many zeros as there are values of the high bits. The size depends on the number of
classes alone, not on the numbers, so records have a fixed size. Equal numbers may repeat.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from composer_kd.errors import StoreError
from composer_kd.stores.formats.bits import Bits, from_bits, to_bits

__all__ = ['decode', 'encode', 'size']


def size(count: int, classes: int) -> int:
    """The bits that ``count`` class numbers take; about ``count * (2 + log2(classes / count))``.

    Example:
        >>> [size(50, 2**power) for power in (16, 17, 18)], size(12, 2**18)
        ([613, 663, 713], 195)
    """
    low = _low_bits(count, classes)
    return count * low + _high_size(count, classes, low)


def encode(ids: NDArray[np.integer], classes: int) -> Bits:
    """Writes sorted class numbers as bits.

    Args:
        ids: ``(N, count)`` Numbers from 0 to ``classes - 1``, each row in ascending order, repetitions allowed.
        classes: The number of classes.

    Returns:
        ``(N, size(count, classes))`` Zeros and ones, uint8.

    Example:
        >>> encode(np.array([[2, 3, 9]]), classes=10).tolist()
        [[0, 1, 1, 0, 1, 1, 0, 0, 0, 1]]
    """
    rows, count = ids.shape
    low = _low_bits(count, classes)
    high = np.zeros((rows, _high_size(count, classes, low)), np.uint8)
    np.put_along_axis(high, (ids >> low) + np.arange(count), 1, axis=1)
    return np.concatenate([to_bits(ids & ((1 << low) - 1), low), high], axis=1)


def decode(bits: Bits, count: int, classes: int) -> NDArray[np.int64]:
    """Reads what :func:`encode` wrote.

    Args:
        bits: ``(N, size(count, classes))`` Zeros and ones, uint8.
        count: The number of class numbers in a row.
        classes: The number of classes.

    Returns:
        ``(N, count)`` The class numbers, int64.

    Raises:
        StoreError: If the bits are none that :func:`encode` writes.
    """
    low = _low_bits(count, classes)
    ones = bits[:, count * low :].view(np.bool_).nonzero()[1]
    if ones.size != count * len(bits):
        raise StoreError(
            f'a record of the store holds other than {count} of {classes} classes: it is damaged, or has another '
            'format. Build the store anew.'
        )
    ids = ones.reshape(-1, count) - np.arange(count)
    if low:
        ids = (ids << low) | from_bits(bits[:, : count * low], low)
    return ids


@lru_cache
def _low_bits(count: int, classes: int) -> int:
    """The number of low bits that takes the least room."""
    return min(range(classes.bit_length()), key=lambda low: count * low + _high_size(count, classes, low))


def _high_size(count: int, classes: int, low: int) -> int:
    return count + ((classes - 1) >> low)
