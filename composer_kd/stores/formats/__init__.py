"""Formats of records: what is kept of a teacher's outputs at one position, in how many bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer_kd.errors import ConfigError, StoreError, nearest
from composer_kd.stores.formats.base import Format, Records, Stored
from composer_kd.stores.formats.dense import Dense, Hidden
from composer_kd.stores.formats.error import FormatError, distance, error
from composer_kd.stores.formats.sampled import Sampled
from composer_kd.stores.formats.top_k import TopK

__all__ = [
    'FORMATS',
    'Dense',
    'Format',
    'FormatError',
    'Hidden',
    'Records',
    'Sampled',
    'Stored',
    'TopK',
    'distance',
    'error',
    'format_from',
]

FORMATS: dict[str, type[Dense] | type[TopK] | type[Sampled] | type[Hidden]] = {
    form.kind: form for form in (Dense, TopK, Sampled, Hidden)
}
"""The formats by kind."""


def format_from(settings: Mapping[str, Any]) -> Format:
    """Makes a format of its settings.

    Args:
        settings: ``kind``, and the arguments of the format of this kind.

    Raises:
        StoreError: If there is no such format, or its arguments are wrong.

    Example:
        >>> format_from({'kind': 'topk', 'k': 10, 'temperature': 4.0})
        TopK(k=10, temperature=4.0, bits=16)
        >>> format_from(Dense('bfloat16').settings())
        Dense(dtype='bfloat16')
    """
    kind = settings.get('kind')
    if not isinstance(kind, str) or kind not in FORMATS:
        raise StoreError(f'format: kind {kind!r} is unknown{nearest(str(kind), FORMATS)}')
    try:
        return FORMATS[kind](**{name: value for name, value in settings.items() if name != 'kind'})
    except (TypeError, ConfigError) as error:
        raise StoreError(f'format {kind}: {error}') from error
