"""Short fingerprints of samples' inputs, which tell whether a student sees what the teacher saw."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.errors import StoreError
from composer_kd.stores.formats.uniform import hashed

__all__ = ['digests']

_WORD = 4  # bytes that are hashed at once


def digests(*inputs: Tensor) -> NDArray[np.uint16]:
    """Hashes each sample of a batch to 2 bytes.

    The hash is the upper part of a sum of all words of the sample's bytes, each times a random number of its own
    (multilinear hashing: Thorup, *High Speed Hashing for Integers and Strings*, arXiv 1504.06804), so two samples that
    differ have equal digests with a probability of about 2 :sup:`-16`. Zeros at the end of a sample change nothing:
    tokens that are padded to the longest sample of a batch keep their digest, if what pads is 0.

    Args:
        *inputs: ``(B, ...)`` One or more tensors, of any dtype. Digests depend on their order, dtypes and values.

    Returns:
        ``(B,)``

    Raises:
        StoreError: If there is no tensor, or the numbers of samples differ.

    Example:
        >>> x = torch.arange(12.0).reshape(3, 4)
        >>> one, other = digests(x), digests(x.flip(1))
        >>> one.dtype, bool((one != other).all()), bool((digests(torch.nn.functional.pad(x, (0, 5))) == one).all())
        (dtype('uint16'), True, True)
    """
    if not inputs or any(x.ndim == 0 or len(x) != len(inputs[0]) for x in inputs):
        raise StoreError(f'digests: expected tensors (B, ...) of one batch, got {[tuple(x.shape) for x in inputs]}')
    total = np.zeros(len(inputs[0]), np.uint64)
    for number, tensor in enumerate(inputs):
        words = _words(tensor.detach().cpu())
        total += words @ _weights(number, words.shape[1])
    return (total >> np.uint64(48)).astype(np.uint16)


def _words(tensor: Tensor) -> NDArray[np.uint64]:
    """The bytes of each sample as numbers of 32 bits, in 64 bits."""
    samples = len(tensor)
    octets = tensor.reshape(samples, tensor[:1].numel() if samples else 1).contiguous().view(torch.uint8).numpy()
    if octets.shape[1] % _WORD:
        octets = np.pad(octets, ((0, 0), (0, -octets.shape[1] % _WORD)))
    return octets.view('<u4').astype(np.uint64)


@lru_cache(maxsize=16)
def _weights(number: int, count: int) -> NDArray[np.uint64]:
    return hashed(number, np.arange(count, dtype=np.uint64))
