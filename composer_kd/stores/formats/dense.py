"""Outputs as they are, in one floating dtype: all logits, or the hidden state that a head makes logits of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from composer_kd.errors import StoreError
from composer_kd.stores.formats.base import Format, Records, check_records, chunks, readable, whole_number
from composer_kd.stores.formats.floats import check_dtype, from_bytes, held_logits, itemsize, to_bytes

__all__ = ['Dense', 'Hidden']


@dataclass(frozen=True)
class Dense(Format):
    """All logits. Any loss at any temperature takes them.

    Excluded classes (minus infinity, ``torch.finfo(dtype).min``) get the least number that the dtype holds, at most
    -1e30 in size: a probability of 0. Logits that the dtype cannot hold are refused.

    Args:
        dtype: ``'float16'`` (11 bits of precision, up to 65504), ``'bfloat16'`` (8 bits) or ``'float32'``.

    Raises:
        ConfigError: If the dtype is another.

    Example:
        >>> import numpy as np, torch
        >>> records = Dense().encode(torch.tensor([[1.5, -torch.inf]]), np.arange(1))
        >>> records.shape, Dense().decode(records, classes=2)
        ((1, 4), tensor([[ 1.5000e+00, -6.5504e+04]], dtype=torch.float16))
    """

    kind: ClassVar[str] = 'dense'
    dtype: str = 'float16'

    def __post_init__(self) -> None:
        check_dtype('dense', self.dtype)

    @property
    @override
    def temperature(self) -> None:  # type: ignore[override]
        return None

    @override
    def nbytes(self, classes: int) -> int:
        return classes * itemsize(self.dtype)

    @override
    def encode(self, outputs: Tensor, rows: NDArray[np.int64]) -> Records:
        logits = readable('dense logits', outputs)
        records = np.empty((len(logits), self.nbytes(logits.shape[1])), np.uint8)
        for part in chunks(logits):
            records[part] = to_bytes('dense logits', held_logits('dense logits', logits[part], self.dtype), self.dtype)
        return records

    @override
    def decode(self, records: Records, classes: int) -> Tensor:
        check_records('dense logits', records, self.nbytes(classes))
        return from_bytes(records, self.dtype, (classes,))


@dataclass(frozen=True)
class Hidden(Format):
    """The last hidden state, which the teacher's head makes logits of at training time: for large vocabularies.

    Args:
        width: The size of the hidden state, ``D``.
        dtype: ``'float16'``, ``'bfloat16'`` or ``'float32'``.

    Raises:
        ConfigError: If the width is not positive, or the dtype is another.

    Example:
        >>> Hidden(width=4096).nbytes(classes=151_936), Dense().nbytes(classes=151_936)
        (8192, 303872)
    """

    kind: ClassVar[str] = 'hidden'
    width: int
    dtype: str = 'bfloat16'

    def __post_init__(self) -> None:
        whole_number('hidden: width', self.width, 1, 2**31)
        check_dtype('hidden', self.dtype)

    @property
    @override
    def temperature(self) -> None:  # type: ignore[override]
        return None

    @override
    def nbytes(self, classes: int) -> int:
        return self.width * itemsize(self.dtype)

    @override
    def encode(self, outputs: Tensor, rows: NDArray[np.int64]) -> Records:
        if outputs.ndim != 2 or outputs.shape[1] != self.width:
            raise StoreError(f'hidden: expected hidden states (N, {self.width}), got {tuple(outputs.shape)}')
        return to_bytes('hidden states', outputs, self.dtype)

    @override
    def decode(self, records: Records, classes: int) -> Tensor:
        check_records('hidden states', records, self.nbytes(classes))
        return from_bytes(records, self.dtype, (self.width,))
