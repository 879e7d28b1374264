"""The k most probable classes as half-precision logarithms and class numbers as they are: quick to read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from composer_kd.losses.sparse import SparseLogits
from composer_kd.stores.formats.base import Records

__all__ = ['Halves']

_LEAST = -65504.0  # of half precision; as a logarithm of a probability it is 0


@dataclass(frozen=True)
class Halves:
    """A record of ``k + 1`` half-precision numbers, the logarithms of the k probabilities and of the rest; then k ids.

    Ids take one byte up to 256 classes, two up to 65,536, and four above.

    Args:
        k: The number of classes.
    """

    k: int

    def nbytes(self, classes: int) -> int:
        """The bytes of a record."""
        return 2 * (self.k + 1) + self.k * _of_ids(classes).itemsize

    def pack(self, top: SparseLogits) -> Records:
        """Makes records of N positions."""
        rest = top.log_rest.clamp(min=_LEAST) if self.k < top.classes else top.log_rest
        values = torch.cat([top.log_probs.clamp(min=_LEAST), rest.unsqueeze(-1)], -1)
        ids = top.ids.cpu().numpy().astype(_of_ids(top.classes))
        halves = values.cpu().numpy().astype('<f2')
        return np.concatenate([halves.view(np.uint8), ids.view(np.uint8)], axis=1)

    def unpack(self, records: Records, classes: int, temperature: float) -> SparseLogits:
        """Reads records; the probabilities are scaled to a sum of 1, which rounding has changed."""
        split = 2 * (self.k + 1)
        ids = records[:, split:].view(_of_ids(classes)).astype(np.int64)
        values = records[:, :split].view('<f2').astype(np.float32)
        values -= np.log(np.exp(values).sum(1, keepdims=True))
        log_probs = torch.from_numpy(values)
        return SparseLogits(torch.from_numpy(ids), classes, temperature, log_probs[:, :-1], log_probs[:, -1])


def _of_ids(classes: int) -> np.dtype:
    return _IDS[(classes > 2**8) + (classes > 2**16)]


_IDS = tuple(np.dtype(name) for name in ('<u1', '<u2', '<u4'))
