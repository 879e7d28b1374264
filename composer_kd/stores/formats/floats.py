"""Tensors as bytes of a floating dtype: numbers that the dtype cannot hold are refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from composer_kd.errors import ConfigError, StoreError, nearest
from composer_kd.losses._common import LEAST_LOGIT
from composer_kd.stores.formats.base import Records

__all__ = ['check_dtype', 'from_bytes', 'held_logits', 'itemsize', 'to_bytes']

_DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16, 'float32': torch.float32}
_CARRIERS = {2: (np.int16, torch.int16), 4: (np.int32, torch.int32)}  # numpy has no bfloat16


def check_dtype(what: str, dtype: str) -> None:
    """Checks the name of a dtype.

    Raises:
        ConfigError: If records have no such dtype.
    """
    if dtype not in tuple(_DTYPES):  # which compares, and takes values of any type
        raise ConfigError(f'{what}: dtype {dtype!r} is none of a store{nearest(str(dtype), _DTYPES)}')


def itemsize(dtype: str) -> int:
    """The bytes of a number."""
    return _DTYPES[dtype].itemsize


def to_bytes(what: str, values: Tensor, dtype: str) -> Records:
    """Converts rows of numbers to a dtype, and these to bytes.

    Args:
        what: Names the numbers in errors.
        values: ``(N, ...)`` On any device.
        dtype: ``'float16'``, ``'bfloat16'`` or ``'float32'``.

    Returns:
        ``(N, bytes)``

    Raises:
        StoreError: If a number is not finite, or becomes infinite in this dtype.
    """
    if not values.is_floating_point():
        raise StoreError(f'{what}: expected floating point, got {values.dtype}')
    values = values.detach().reshape(len(values), math.prod(values.shape[1:]))
    held = values.to(_DTYPES[dtype]).cpu().contiguous()
    if held.numel() and not all(map(math.isfinite, map(float, held.aminmax()))):  # NaN is both
        largest = values[values.isfinite()].abs().max() if values.isfinite().any() else torch.nan
        raise StoreError(
            f'{what}: some numbers are NaN or infinite in {dtype}, which holds numbers up to '
            f'{torch.finfo(_DTYPES[dtype]).max:.5g}; the largest finite one is {float(largest):.5g}. Look at the '
            "teacher, or store another dtype, such as 'bfloat16' or 'float32'."
        )
    carrier = _CARRIERS[held.itemsize][1]
    return held.view(carrier).numpy().view(np.uint8)


def from_bytes(records: Records, dtype: str, shape: Sequence[int]) -> Tensor:
    """Reads what :func:`to_bytes` wrote, without a copy.

    Args:
        records: ``(N, bytes)``
        dtype: The dtype.
        shape: The shape of a row.

    Returns:
        ``(N, *shape)`` of the dtype; it shares memory with the records.
    """
    numbers = np.ascontiguousarray(records).view(_CARRIERS[itemsize(dtype)][0])
    return torch.from_numpy(numbers).view(_DTYPES[dtype]).reshape(len(records), *shape)


def held_logits(what: str, logits: Tensor, dtype: str) -> Tensor:
    """Raises the logits of excluded classes to the least that a dtype holds, or to -1e30.

    Raises:
        StoreError: If a row has only logits so small that a raised one would count beside them.
    """
    least = max(torch.finfo(_DTYPES[dtype]).min, LEAST_LOGIT)
    low = logits.amax(-1) < least / 2 if least > LEAST_LOGIT else torch.zeros(1, dtype=torch.bool)
    if low.any():
        raise StoreError(
            f'{what}: {int(low.sum())} of {len(logits)} positions have no logit above {least / 2:g}, which {dtype} '
            "cannot tell from an excluded class. Store another dtype, such as 'bfloat16' or 'float32'."
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.clamp(min=least)
