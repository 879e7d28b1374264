"""Sorted class numbers in a fixed number of bits, by the code of Elias (1974) and Fano (1971).

Of the high bits of the numbers, the j-th sets bit ``high_j + j`` of a row: as many ones as numbers, and at most as many
zeros as there are values of the high bits. The low bits of each number follow as they are. The size depends on the
number of classes alone, not on the numbers, so records have a fixed size. Equal numbers may repeat.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from composer_kd.errors import StoreError
from composer_kd.stores.formats.base import Records
from composer_kd.stores.formats.bits import Bits, from_records, to_bits

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
        ``(N, size(count, classes))`` The bits.

    Example:
        >>> encode(np.array([[2, 3, 9]]), classes=10).tolist()
        [[0, 1, 1, 0, 0, 0, 1, 0, 1, 1]]
    """
    rows, count = ids.shape
    low = _low_bits(count, classes)
    high = np.zeros((rows, _high_size(count, classes, low)), np.uint8)
    np.put_along_axis(high, (ids >> low) + np.arange(count), 1, axis=1)
    return np.concatenate([high, to_bits(ids & ((1 << low) - 1), low)], axis=1)


def decode(records: Records, count: int, classes: int) -> NDArray[np.int64]:
    """Reads the numbers from records that begin with what :func:`encode` wrote.

    Args:
        records: ``(N, bytes)``
        count: The number of class numbers in a record.
        classes: The number of classes.

    Returns:
        ``(N, count)`` The class numbers, int64.

    Raises:
        StoreError: If the records begin with something else.
    """
    low = _low_bits(count, classes)
    width = _high_size(count, classes, low)
    high = np.unpackbits(records, axis=1, bitorder='little', count=width)
    ones = high.reshape(-1).view(np.bool_).nonzero()[0]
    if ones.size == count * len(records):
        rows = np.arange(len(records))[:, None] * width
        ids = ((ones.reshape(-1, count) - rows - np.arange(count)) << low) | from_records(
            records, width, low, count
        ).view(np.int64)
        if not ids.size or (ids.min() >= 0 and ids.max() < classes):
            return ids
    raise StoreError(
        f'a record of the store holds other than {count} of {classes} classes: it is damaged, or has another format. '
        'Build the store anew.'
    )


@lru_cache
def _low_bits(count: int, classes: int) -> int:
    """The number of low bits that takes the least room."""
    return min(range(classes.bit_length()), key=lambda low: count * low + _high_size(count, classes, low))


def _high_size(count: int, classes: int, low: int) -> int:
    return count + ((classes - 1) >> low)
