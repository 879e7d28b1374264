"""The k most probable classes, and the probability of all others together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from composer_kd.errors import ConfigError, StoreError
from composer_kd.losses.sparse import SparseLogits, top_logits
from composer_kd.stores.formats.base import Format, Records, check_records, chunks, readable, whole_number
from composer_kd.stores.formats.companded import Companded
from composer_kd.stores.formats.halves import Halves
from composer_kd.stores.formats.temperature import check_temperature

__all__ = ['TopK']

_PLAIN = 16  # bits of a half-precision number
_FEWEST, _MOST = 4, 8
_SHARED = 5  # values that share their bits, so that a fifth of a bit counts


@dataclass(frozen=True)
class TopK(Format):
    """The k most probable classes, and the probability of all others together.

    With 16 bits a probability is a half-precision logarithm and a class its number: ``k=10`` of 65,536 classes takes 42
    bytes, and is quick to read. With 4 to 8 bits, in steps of 0.2, the ids are sorted and coded too; ``k=50`` with 4.8
    bits takes 108, 114 and 120 bytes for 2 :sup:`16`, 2 :sup:`17` and 2 :sup:`18` classes: advised for tokens.

    Args:
        k: The number of classes.
        temperature: The temperature of the softmax; a loss must use the same.
        bits: Bits of a probability: 16, or 4 to 8 in steps of 0.2.

    Raises:
        ConfigError: If a setting is out of bounds.

    Example:
        >>> import numpy as np, torch
        >>> form = TopK(k=2, temperature=1.0)
        >>> target = form.decode(form.encode(torch.tensor([[3.0, 2.0, 1.0, 0.0]]), np.arange(1)), classes=4)
        >>> target.ids.tolist(), [round(value, 3) for value in (*target.log_probs[0].tolist(), target.log_rest.item())]
        ([[0, 1]], [-0.44, -1.44, -2.127])
        >>> TopK(50, 1.0, bits=4.8).nbytes(2**17)
        114
    """

    kind: ClassVar[str] = 'topk'
    k: int
    temperature: float
    bits: float = _PLAIN

    def __post_init__(self) -> None:
        whole_number('topk: k', self.k, 1, 2**16)
        check_temperature('topk', self.temperature)
        fifths = _SHARED * self.bits if isinstance(self.bits, (int, float)) else float('nan')
        is_step = abs(fifths - round(fifths)) < 1e-9 if fifths == fifths else False
        if self.bits != _PLAIN and not (is_step and _FEWEST <= self.bits <= _MOST):
            raise ConfigError(
                f'topk: bits: expected {_PLAIN}, or {_FEWEST} to {_MOST} in steps of 0.2, got {self.bits!r}'
            )

    @cached_property
    def _coding(self) -> Halves | Companded:
        if self.bits == _PLAIN:
            return Halves(self.k)
        return Companded(self.k, levels=int(2 ** (round(_SHARED * self.bits) / _SHARED) + 1e-9))

    @override
    def nbytes(self, classes: int) -> int:
        if self.k > classes:
            raise StoreError(f'topk: k={self.k} of {classes} classes: give k of at most {classes}')
        return self._coding.nbytes(classes)

    @override
    def encode(self, outputs: Tensor, rows: NDArray[np.int64]) -> Records:
        nbytes = self.nbytes(outputs.shape[-1])
        logits = readable('top-k logits', outputs)
        records = [self._coding.pack(top_logits(logits[part], self.k, self.temperature)) for part in chunks(logits)]
        return np.concatenate(records or [np.zeros((0, nbytes), np.uint8)])

    @override
    def decode(self, records: Records, classes: int) -> SparseLogits:
        check_records('top-k logits', records, self.nbytes(classes))
        return self._coding.unpack(records, classes, self.temperature)
