"""Helpers for contrastive losses with a memory bank: draw negatives, and score a batch against the memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from composer_kd.losses._once import once_only

SEED = 0x5EED
ALL_UP_TO = 16  # score the whole memory if it has at most this many times the requested rows
GATHERED = 2**22  # elements of the memory that are copied at a time

_GOLDEN, _FIRST, _SECOND = (number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def others(index: Tensor, count: int, size: int, time: Tensor) -> Tensor:
    """Draws other samples (the negatives) for each sample, uniformly and with replacement.

    The draw is a hash (SplitMix64 by Steele, Lea and Flood) of the sample's index and the time. It is therefore the
    same in any batch and on any device, and leaves torch's random state unchanged.

    Args:
        index: The indices of the samples, ``(B,)``, int64 in ``[0, size)``.
        count: How many to draw for each sample.
        size: The number of samples in the data set, at least 2.
        time: A 0-d int64 tensor; each value gives different draws.

    Returns:
        Indices ``(B, count)``, int64 in ``[0, size)``, different from the sample's own.
    """
    starts = _hashed(_hashed(time + SEED) + index)
    steps = torch.arange(1, count + 1, device=index.device) * _GOLDEN
    draws = _hashed(starts.unsqueeze(1) + steps)
    draws &= 2**63 - 1
    draws %= size - 1
    draws += draws >= index.unsqueeze(1)
    return draws


def _hashed(number: Tensor) -> Tensor:
    """Applies the 64-bit mixing function of SplitMix64 in place; products wrap around."""
    for bits, factor in ((30, _FIRST), (27, _SECOND)):
        number ^= _shifted(number, bits)
        number *= factor
    number ^= _shifted(number, 31)
    return number


def _shifted(number: Tensor, bits: int) -> Tensor:
    """Shifts right and fills with zeros; torch's own shift of int64 fills with the sign bit."""
    return (number >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def scores(anchors: Tensor, memory: Tensor, index: Tensor) -> Tensor:
    """Computes the inner products of each anchor with selected rows of the memory.

    If ``n`` is at most 16 times ``K``, all products are computed as one matrix ``(B, n)`` and the requested ones are
    selected, which is fastest. Otherwise rows are gathered a few at a time, in the forward and again in the backward
    pass, since all of them together, ``(B, K, D)``, would take gigabytes. No gradient reaches the memory.

    Args:
        anchors: ``(B, D)``.
        memory: ``(n, D)``.
        index: Rows of the memory for each anchor, ``(B, K)`` int64.

    Returns:
        ``(B, K)``.
    """
    memory = memory.detach().to(anchors.dtype)
    if memory.shape[0] <= ALL_UP_TO * index.shape[1]:
        return (anchors @ memory.T).gather(1, index)
    return _Gathered.apply(anchors, memory, index)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: Tensor, memory: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(memory, index)
        column = anchors.unsqueeze(2)
        return torch.cat([torch.bmm(rows, column).squeeze(2) for rows in _parts(memory, index)[1]], dim=1)

    @staticmethod
    @once_only('CRD with a large memory', 'It has one if n_samples is at most 16 times negatives + 1.')
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        memory, index = ctx.saved_tensors
        total = memory.new_zeros(index.shape[0], 1, memory.shape[1])
        step, parts = _parts(memory, index)
        for grad, rows in zip(grads[0].split(step, dim=1), parts):
            total.baddbmm_(grad.unsqueeze(1), rows)
        return total.squeeze(1), None, None


def _parts(memory: Tensor, index: Tensor) -> tuple[int, Any]:
    """Returns ``k``, and an iterator over the selected rows ``(B, k, D)``, ``k`` at a time."""
    batch, width = index.shape[0], memory.shape[1]
    step = max(1, GATHERED // max(1, batch * width))
    chosen = (memory.index_select(0, part.reshape(-1)).view(batch, -1, width) for part in index.split(step, dim=1))
    return step, chosen
