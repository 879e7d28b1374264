r"""The k most probable classes in few bits: sorted ids by Elias and Fano, companded probabilities.

Of each class the record says how far its logarithm is below the largest, :math:`d = \max_j \log p_j - \log p`, in one
of ``levels`` steps that are equal in :math:`e^{-d/4}`: fine where a class is probable, coarse where it is not. The
largest itself is not stored, as all probabilities sum to 1. The mass of all other classes, :math:`r`, is stored in
equal steps of :math:`\arcsin \sqrt r`, in which an error costs the same divergence everywhere, with all bits that are
left over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from composer_kd.losses.sparse import SparseLogits
from composer_kd.stores.formats import elias_fano
from composer_kd.stores.formats.base import Records
from composer_kd.stores.formats.bits import Bits, from_records, pack, to_bits

__all__ = ['Companded']

# Least divergence from the exact distribution on logits like those of language models (benchmarks/stores.py).
_SCALE = 4.0  # nats
_DEEPEST = 14.0  # nats below the most probable class; a class below has a probability under 1e-6
_GROUP = 5  # values that share their bits
_LEAST_REST, _MOST_REST = 7, 16  # bits of the mass of the rest


@dataclass(frozen=True)
class Companded:
    """A record of k sorted ids, k companded probabilities and the mass of the rest.

    Args:
        k: The number of classes.
        levels: The number of steps of a probability, 2 to 256.
    """

    k: int
    levels: int

    def nbytes(self, classes: int) -> int:
        """The bytes of a record."""
        return (self._fixed_bits(classes) + (_LEAST_REST if self.k < classes else 0) + 7) // 8

    def pack(self, top: SparseLogits) -> Records:
        """Makes records of N positions."""
        ids = top.ids.cpu().numpy()
        order = ids.argsort(axis=1)
        log_probs = top.log_probs.double().cpu().numpy()
        depth = log_probs.max(axis=1, keepdims=True) - log_probs
        codes = np.rint((1 - np.exp(-depth / _SCALE)) * (self.levels - 1) / _reach()).clip(0, self.levels - 1)
        rest = np.exp(top.log_rest.double().cpu().numpy()).clip(0, 1)
        width = self._rest_bits(top.classes)
        rest = np.rint(np.arcsin(np.sqrt(rest)) * (2 / np.pi) * (2**width - 1)).astype(np.int64)
        parts = (
            elias_fano.encode(np.take_along_axis(ids, order, 1), top.classes),
            self._write_digits(np.take_along_axis(codes, order, 1).astype(np.int64)),
            to_bits(rest[:, None], width),
        )
        return pack(*parts)

    def unpack(self, records: Records, classes: int, temperature: float) -> SparseLogits:
        """Reads records, in ascending order of the ids."""
        ids = elias_fano.decode(records, self.k, classes)
        codes = self._read_digits(records, elias_fano.size(self.k, classes))
        total = np.log(self._probs.take(codes).sum(axis=1))
        log_rest = np.full(len(records), -np.inf, np.float32)
        if width := self._rest_bits(classes):
            angle = _angle(from_records(records, self._fixed_bits(classes), width, 1)[:, 0], 2**width - 1)
            log_rest = (2 * np.log(np.sin(angle))).astype(np.float32)
            total -= (2 * np.log(np.cos(angle))).astype(np.float32)
        log_probs = self._log_probs.take(codes)
        log_probs -= total[:, None]
        of_ids, known, of_rest = (torch.from_numpy(part) for part in (ids, log_probs, log_rest))
        return SparseLogits(of_ids, classes, temperature, known, of_rest)

    def _fixed_bits(self, classes: int) -> int:
        return elias_fano.size(self.k, classes) + sum(count * width for count, _, width in self._groups)

    def _rest_bits(self, classes: int) -> int:
        left = 8 * self.nbytes(classes) - self._fixed_bits(classes)
        return min(_MOST_REST, left) if self.k < classes else 0

    @cached_property
    def _groups(self) -> list[tuple[int, int, int]]:
        """How many groups, of how many values, in how many bits: all whole groups, then the last values."""
        groups = [(self.k // _GROUP, _GROUP), (1, self.k % _GROUP)]
        return [(count, of, (self.levels**of - 1).bit_length()) for count, of in groups if count * of]

    @cached_property
    def _log_probs(self) -> NDArray[np.float32]:
        """What each code stands for, relative to the most probable class, in nats."""
        exact = _SCALE * np.log1p(-np.arange(self.levels) * (_reach() / (self.levels - 1)))
        return exact.astype(np.float32)

    @cached_property
    def _probs(self) -> NDArray[np.float32]:
        return np.exp(self._log_probs)

    def _write_digits(self, codes: NDArray[np.int64]) -> Bits:
        parts, start = [], 0
        for count, of, width in self._groups:
            digits = codes[:, start : start + count * of].reshape(len(codes), count, of)
            parts.append(to_bits(digits @ self.levels ** np.arange(of), width))
            start += count * of
        return np.concatenate(parts, axis=1)

    def _read_digits(self, records: Records, start: int) -> NDArray[np.int64]:
        parts = []
        for count, of, width in self._groups:
            numbers = from_records(records, start, width, count)
            digits = np.empty((len(records), count, of), np.int64)
            for place in range(of):  # a quotient of one divisor is quicker than one of many
                quotients = numbers // np.uint64(self.levels)
                digits[:, :, place] = numbers - quotients * np.uint64(self.levels)
                numbers = quotients
            parts.append(digits.reshape(len(records), count * of))
            start += count * width
        return np.concatenate(parts, axis=1)


def _reach() -> float:
    """The companded value of the deepest step."""
    return float(1 - np.exp(-_DEEPEST / _SCALE))


def _angle(codes: NDArray[np.uint64], most: int) -> NDArray[np.float64]:
    """The angle of a code; the middle of its step for the two ends, so that no mass is 0 that may not be."""
    return codes.clip(0.25, most - 0.25) * (np.pi / 2 / most)
