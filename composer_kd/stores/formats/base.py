"""The protocol ``Format``: how the outputs of a teacher at one position become a record of fixed size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, ClassVar, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.errors import ConfigError, StoreError
from composer_kd.losses.sparse import SparseTarget

__all__ = ['Format', 'Records', 'Stored', 'check_records', 'chunks', 'readable', 'whole_number']

Records: TypeAlias = NDArray[np.uint8]
"""``(N, nbytes)`` One record a row."""

Stored: TypeAlias = Tensor | SparseTarget
"""What a store says of N positions: ``(N, V)`` outputs, or a distribution of which a few classes are known."""

# Elements of the logits of which copies are made at once: on a CPU few, as freshly mapped memory costs more than the
# arithmetic; on an accelerator many, as each chunk synchronises with it.
_CHUNK, _CHUNK_OF_ACCELERATOR = 2**18, 2**26


@runtime_checkable
class Format(Protocol):
    """How outputs become records of fixed size, and what is read from these.

    Attributes:
        kind: Its name in manifests and YAML files.
        temperature: The temperature of the softmax that was stored; None if logits were, which any temperature suits.
    """

    kind: ClassVar[str]
    temperature: float | None

    def settings(self) -> dict[str, Any]:
        """What :func:`.format_from` makes an equal format of: plain values, with ``kind`` among them.

        A format is a dataclass, of whose fields it is made.
        """
        return {'kind': self.kind, **{field.name: getattr(self, field.name) for field in fields(cast(Any, self))}}

    def nbytes(self, classes: int) -> int:
        """The bytes of a record.

        Args:
            classes: The number of classes, ``V``.

        Raises:
            StoreError: If the format does not suit so many classes.
        """

    def encode(self, outputs: Tensor, rows: NDArray[np.int64]) -> Records:
        """Makes records of outputs.

        Args:
            outputs: ``(N, V)`` on any device.
            rows: ``(N,)`` A number of each position that is its own in the store; formats that draw depend on it, so
                that a record is the same in any batch.

        Returns:
            ``(N, nbytes)``

        Raises:
            StoreError: If an output is NaN or infinite, or too large for the format.
        """

    def decode(self, records: Records, classes: int) -> Stored:
        """Reads records.

        Args:
            records: ``(N, nbytes)``
            classes: The number of classes, ``V``.

        Returns:
            What they say, of N positions, on the CPU. It may share memory with the records.

        Raises:
            StoreError: If they are not records of this format.
        """


def readable(what: str, outputs: Tensor) -> Tensor:
    """Checks outputs that are to be stored: ``(N, V)``, with a finite largest logit in each row.

    Classes may be excluded by minus infinity or ``torch.finfo(dtype).min``, but not all of a row.

    Returns:
        The outputs, without gradient.

    Raises:
        StoreError: If the shape is another, or a row has NaN, infinity or no class at all.
    """
    if outputs.ndim != 2 or not outputs.is_floating_point() or outputs.shape[1] == 0:
        raise StoreError(f'{what}: expected floating-point logits (N, V), got {outputs.dtype} {tuple(outputs.shape)}')
    outputs = outputs.detach()
    bad = ~outputs.amax(-1).isfinite() if len(outputs) else outputs.new_zeros(0).bool()
    if bad.any():
        raise StoreError(
            f'{what}: {int(bad.sum())} of {len(bad)} positions have a logit that is NaN or infinite, or exclude all '
            f'classes, the first at row {int(bad.nonzero()[0])} of the batch. Look at the teacher there: its inputs '
            'may be at fault, or half precision, which overflows above 65504.'
        )
    return outputs


def chunks(outputs: Tensor) -> Iterator[slice]:
    """Rows of which copies are made at once, to bound the memory."""
    elements = _CHUNK if outputs.device.type == 'cpu' else _CHUNK_OF_ACCELERATOR
    step = max(1, elements // max(1, outputs.shape[1]))
    return (slice(start, start + step) for start in range(0, len(outputs), step))


def check_records(what: str, records: Records, nbytes: int) -> None:
    """Checks the size of records.

    Raises:
        StoreError: If it is another.
    """
    if records.dtype != np.uint8 or records.ndim != 2 or records.shape[1] != nbytes:
        raise StoreError(f'{what}: expected records (N, {nbytes}) of uint8, got {records.dtype} {records.shape}')


def whole_number(what: str, value: Any, least: int, most: int) -> None:
    """Checks that a setting is a whole number within bounds.

    Raises:
        ConfigError: If it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f'{what}: expected a whole number from {least:,} to {most:,}, got {value!r}')
