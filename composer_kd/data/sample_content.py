"""A hash of all that a sample contains, to compare samples."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ['content_hash']


def content_hash(value: Any) -> str:
    """Hashes all that a sample contains, exactly: values, types, shapes and dtypes.

    The hash is the same in all processes for tensors, arrays, images, numbers, strings, bytes, and mappings and
    sequences of these. The keys of a mapping may have any order.

    Args:
        value: The sample.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> content_hash({'x': torch.ones(2), 'y': 1}) == content_hash({'y': 1, 'x': torch.ones(2)})
        True
        >>> content_hash((torch.ones(2), 1)) == content_hash((torch.ones(1, 2), 1))
        False
    """
    state = hashlib.blake2b(digest_size=16)
    for part in _parts(value):
        state.update(len(part).to_bytes(8, 'little'))
        state.update(part)
    return state.hexdigest()


def _parts(value: Any) -> Any:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        yield f'tensor {value.dtype} {tuple(value.shape)}'.encode()
        yield flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b''
    elif isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
        yield f'array {value.dtype} {value.shape}'.encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Image.Image):
        yield f'image {value.mode} {value.size}'.encode()
        yield value.tobytes()
    elif isinstance(value, Mapping):
        yield f'mapping {len(value)}'.encode()
        for key in sorted(value, key=repr):
            yield repr(key).encode()
            yield from _parts(value[key])
    elif isinstance(value, (list, tuple)):
        yield f'sequence {len(value)}'.encode()
        for entry in value:
            yield from _parts(entry)
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        yield f'{type(value).__name__} {value!r}'.encode()
    else:
        yield pickle.dumps(value, protocol=4)
