"""The parts of a manifest: stored features, and shards."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from composer_kd.errors import ConfigError, StoreError
from composer_kd.stores.formats.floats import check_dtype, itemsize

__all__ = ['Feature', 'Shard', 'checked_int', 'is_checksum']

_PER = ('position', 'sample', 'token')


@dataclass(frozen=True)
class Feature:
    """The features of one layer.

    Attributes:
        shape: The shape at one position, or of one sample; ``()`` for one number.
        dtype: ``'float16'``, ``'bfloat16'`` or ``'float32'``.
        per: ``'sample'``; ``'position'`` for features of each position of the logits; ``'token'`` for features of each
            token, of which a layer has a number of its own.
        pooled: Whether it is the mean over the positions of a map, or over tokens.

    Raises:
        StoreError: If a value is out of bounds or of another type.

    Example:
        >>> Feature(shape=(64, 8, 8), dtype='float16').nbytes
        8192
    """

    shape: tuple[int, ...]
    dtype: str = 'float16'
    per: str = 'position'
    pooled: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.shape, (tuple, list)) or len(self.shape) > 8:
            raise StoreError(f'features: expected a shape of at most 8 sizes, got {self.shape!r}')
        for size in self.shape:
            checked_int('features: a size of the shape', size, 1, 2**31)
        checked_int('features: the numbers of a record', math.prod(self.shape), 1, 2**31)
        object.__setattr__(self, 'shape', tuple(self.shape))
        try:
            check_dtype('features', self.dtype)
        except ConfigError as error:
            raise StoreError(str(error)) from error
        if not isinstance(self.pooled, bool):
            raise StoreError(f'features: pooled: expected true or false, got {self.pooled!r}')
        if self.per not in _PER:
            raise StoreError(f'features: per: expected one of {_PER}, got {self.per!r}')

    @property
    def nbytes(self) -> int:
        """The bytes of a record."""
        return math.prod(self.shape) * itemsize(self.dtype)


@dataclass(frozen=True)
class Shard:
    """What is known of a shard.

    Attributes:
        rows: The number of its samples.
        positions: The number of its positions.
        nbytes: Its bytes, of all columns.
        checksums: The CRC-32 of each column's bytes, by the name of the column.
        tokens: The number of tokens, by the layer, of features that have one record a token.

    Raises:
        StoreError: If a value is out of bounds or of another type.
    """

    rows: int
    positions: int
    nbytes: int
    checksums: Mapping[str, str]
    tokens: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_int('shards: rows', self.rows, 1, 2**39)
        checked_int('shards: positions', self.positions, 0, 2**62)
        checked_int('shards: nbytes', self.nbytes, 0, 2**62)
        if not isinstance(self.checksums, Mapping) or not all(map(is_checksum, self.checksums.values())):
            raise StoreError('shards: checksums: expected eight hexadecimal digits for each column')
        if not isinstance(self.tokens, Mapping):
            raise StoreError(f'shards: tokens: expected a number for each layer, got {self.tokens!r}')
        for count in self.tokens.values():
            checked_int('shards: tokens', count, 0, 2**62)


def is_checksum(value: Any) -> bool:
    """Whether a value is a CRC-32 as eight hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch('[0-9a-f]{8}', value) is not None


def checked_int(name: str, value: Any, least: int, most: int) -> None:
    """Checks that a value is a whole number within bounds.

    Raises:
        StoreError: If it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise StoreError(f'{name}: expected a whole number from {least:,} to {most:,}, got {value!r}')
