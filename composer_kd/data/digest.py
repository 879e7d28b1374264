"""A digest of inputs, two bytes a sample, that tells other inputs from the same: another crop, flip, view or order."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from composer_kd.data.counter_random import uniforms
from composer_kd.errors import ConfigError

__all__ = ['digest', 'same']

_POSITIONS = 256  # of each image, at most about twice as many
_DROPPED_BITS = 9  # of a float32: 14 bits of its fraction and 2 of its exponent stay


def digest(inputs: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Computes a digest of inputs, two bytes a sample, on their device.

    Images, and other numbers that aren't token ids, are compared with a tolerance, since machines round differently.
    Their digest is the middle of the float32 :math:`\sum_k w_k (|x_k| + u_k x_k)`, its lower two bits of the exponent
    and upper 14 of the fraction: relative steps of 3e-5 to 6e-5. The weights :math:`w, u` are fixed and random from 0
    to 1, at a few hundred positions spread over the image. All terms are positive, so the sum has nearly full
    precision; it changes with the place of each value, its sign and its size. Token ids have an exact digest: the upper
    16 bits of :math:`\sum_s w_s (x_s + 1)` modulo :math:`2^{64}` with fixed odd weights, a universal hash.

    The result depends on the sample alone. It runs no operation that autocast would round, and never waits for the
    device. Inputs in bfloat16 or float16 are themselves too coarse to be compared with those in float32.

    Args:
        inputs: ``(B, ...)``: integers ``(B, S)`` or ``(B,)`` are token ids; all else is read as float32.
        mask: ``(B, S)`` Which positions of token ids count, nonzero for these: the digest of a sequence is then the
            same however it is padded, on either side. None for all of them.

    Returns:
        int16 ``(B,)``, for `same`.

    Raises:
        ConfigError: If there is a mask and the inputs are not token ids of its shape.

    Example:
        >>> images = torch.arange(192.0).view(1, 3, 8, 8) / 100
        >>> same(digest(images), digest(images * (1 + 1e-6))), same(digest(images), digest(images.flip(3)))
        (tensor([True]), tensor([False]))
        >>> padded, mask = torch.tensor([[5, 7, 0]]), torch.tensor([[1, 1, 0]])
        >>> digest(padded, mask).equal(digest(torch.tensor([[5, 7]])))
        True
    """
    integers = not (inputs.is_floating_point() or inputs.is_complex() or inputs.dtype == torch.bool)
    if integers and inputs.ndim <= 2:
        return _of_tokens(inputs if inputs.ndim == 2 else inputs.unsqueeze(1), mask)
    if mask is not None:
        raise ConfigError(f'mask: is for token ids (B, S), got inputs {tuple(inputs.shape)} of {inputs.dtype}.')
    return _of_numbers(inputs)


def same(first: Tensor, second: Tensor) -> Tensor:
    """Compares digests of `digest`, with a tolerance of one step.

    Two different images pass for the same with a probability of well below one percent, two different sequences with
    one of 3 in 65,536.

    Args:
        first: int16 ``(B,)``.
        second: int16 ``(B,)``, on the same device.

    Returns:
        bool ``(B,)``.

    Raises:
        ConfigError: If the dtypes are others, in which numbers would not wrap around alike.

    Example:
        >>> same(torch.tensor([5, 5, -32768], dtype=torch.int16), torch.tensor([4, 7, 32767], dtype=torch.int16))
        tensor([ True, False,  True])
    """
    if not first.dtype == second.dtype == torch.int16:
        raise ConfigError(f'digests: expected int16, got {first.dtype} and {second.dtype}.')
    return (first - second).clamp_(-2, 2).abs_().le(1)  # int16, so the difference wraps around


def _of_numbers(inputs: Tensor) -> Tensor:
    flat = inputs.flatten(1) if inputs.ndim > 1 else inputs.unsqueeze(1)
    stride = _stride(flat.shape[1])
    x = flat[:, ::stride].float().contiguous()
    even, odd = _image_weights(x.shape[1], x.device)
    total = x.abs().mul_(even).addcmul_(x, odd).sum(1)
    return total.view(torch.int32).bitwise_right_shift_(_DROPPED_BITS).to(torch.int16)  # which wraps around


def _of_tokens(ids: Tensor, mask: Tensor | None) -> Tensor:
    values = ids.long() + 1
    if mask is None:
        return (values * _token_weights(ids.shape[1], ids.device)).sum(1).bitwise_right_shift_(48).to(torch.int16)
    if mask.shape != ids.shape:
        raise ConfigError(f'mask: expected the shape of the token ids, {tuple(ids.shape)}, got {tuple(mask.shape)}.')
    valid = mask.ne(0).long()
    weights = _token_weights(ids.shape[1], ids.device)[valid.cumsum(1).sub_(1).clamp_(min=0)]
    return (values * weights * valid).sum(1).bitwise_right_shift_(48).to(torch.int16)


@lru_cache(maxsize=64)
def _stride(length: int) -> int:
    """A step to go through a flattened image that meets all of its rows, columns and channels alike: coprime to it."""
    stride = max(1, length // _POSITIONS)
    while math.gcd(stride, length) > 1:
        stride += 1
    return stride


@lru_cache(maxsize=16)
def _image_weights(length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    draws = uniforms(np.arange(length, dtype=np.uint64), 2)
    even = draws[:, 0]
    odd = even * draws[:, 1]
    return (
        torch.from_numpy(even).to(torch.float32).to(device),
        torch.from_numpy(odd).to(torch.float32).to(device),
    )


@lru_cache(maxsize=64)
def _token_weights(length: int, device: torch.device) -> Tensor:
    high, low = (uniforms(np.arange(length, dtype=np.uint64), 2) * 2.0**32).astype(np.uint64).T
    return torch.from_numpy(((high << np.uint64(32)) | low | np.uint64(1)).view(np.int64)).to(device)
