"""Files of ``torch.save``: zip archives, and the format before them."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import pickle
from typing import IO, Any

import numpy as np
import torch
from torch.torch_version import TorchVersion

from composer_kd.errors import CheckpointError
from composer_kd.teachers.readers import archives
from composer_kd.teachers.readers.damage import damaged

__all__ = ['load_plain', 'read']

_multiarray: Any = np._core.multiarray  # type: ignore[attr-defined]

# Besides tensors and plain containers, checkpoints contain versions, times, numpy's numbers and random state
# (Composer), and the options of a command line with its paths (training scripts). Making them runs nothing.
_SAFE_GLOBALS: list[Any] = [
    TorchVersion,
    datetime.timedelta,
    argparse.Namespace,
    (pathlib.PurePosixPath, 'pathlib.PosixPath'),
    (pathlib.PureWindowsPath, 'pathlib.WindowsPath'),
    np.ndarray,
    np.dtype,
    *((getattr(_multiarray, made), f'numpy.{core}.multiarray.{made}')
      for made in ('_reconstruct', 'scalar') for core in ('core', '_core')),
    *{type(np.dtype(code)) for code in 'bBhHiIlLqQefd?'},
]  # fmt: skip


def read(path: str, name: str) -> Any:
    """Reads the saved object; tensors are on the CPU, and mapped from the file where it is not compressed.

    Raises:
        CheckpointError: If the file is damaged, or holds more than tensors and plain data.
    """
    try:
        archive = archives.check(path, name)
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            # with mmap, the optimizer state of a full checkpoint is not read
            return torch.load(path, map_location='cpu', weights_only=True, mmap=archive.is_stored or None)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if not archive.is_zip and ('unsupported' not in str(error).lower() or not _is_pickle(path)):
            raise damaged(name, error) from error
        raise _refused(name, error) from None  # torch's message recommends unsafe loading
    except (Exception, MemoryError) as error:  # a damaged pickle may raise anything
        raise damaged(name, error) from error


def load_plain(file: IO[bytes], name: str) -> Any:
    """Reads an object of tensors and plain data from an open file.

    Args:
        file: The file.
        name: How messages call it.

    Raises:
        CheckpointError: If it is damaged, or holds more.
    """
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(file, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(name, error) from None
    except (Exception, MemoryError) as error:  # a damaged pickle may raise anything
        raise damaged(name, error) from error


def _refused(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f'Refused to load {name}: it holds more than tensors and plain data, and loading that could run code. '
        f'Nothing in it was run. Save the state_dict alone and pass that file.{_asked_for(error)}'
    )


def _is_pickle(path: str) -> bool:
    with open(path, 'rb') as file:
        return file.read(1) == pickle.PROTO


def _asked_for(error: Exception) -> str:
    """The line of the message that names what the refused file wanted to import."""
    line = next((line for line in str(error).split('\n') if 'unsupported' in line.lower()), '')
    return f'\n{line.strip()[:300]}' if line else ''
