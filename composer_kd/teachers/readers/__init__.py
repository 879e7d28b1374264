"""Readers of the files and folders that hold weights; none of them runs code of a file."""

from __future__ import annotations

import os
import stat
from typing import Any

from composer_kd.errors import CheckpointError, CheckpointNotFoundError
from composer_kd.teachers.readers import folders, safetensors_files, torch_files
from composer_kd.teachers.readers.damage import not_a_file

__all__ = ['read_content']


def read_content(path: str, name: str) -> Any:
    """Reads what a file or folder holds.

    The format is found from the content, not from the name: a file fetched from a URI may have any name.

    Args:
        path: A local path.
        name: How messages call it.

    Returns:
        For a file of ``torch.save`` the object that was saved, its tensors on the CPU and mapped from the file; for
        safetensors and for folders of ``save_pretrained`` a dict from names to tensors.

    Raises:
        CheckpointNotFoundError: If there is nothing at this path.
        CheckpointError: If it is damaged, unsafe, or of no known format.

    Example:
        >>> import tempfile, torch
        >>> path = tempfile.mkdtemp() + '/weights.pt'
        >>> torch.save({'net': {'weight': torch.ones(2)}}, path)
        >>> read_content(path, 'weights.pt')
        {'net': {'weight': tensor([1., 1.])}}
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the path
        raise CheckpointNotFoundError(
            f'No checkpoint at {name} (looked in {os.path.abspath(path)}). Train that model first, or correct the path.'
        ) from error
    except OSError as error:
        raise CheckpointError(f'{name} cannot be read: {error.strerror}.') from error
    if stat.S_ISDIR(mode):
        return folders.read(path, name, read_content)
    if not stat.S_ISREG(mode):
        raise not_a_file(name)
    try:
        with open(path, 'rb') as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(f'{name} cannot be read: {error.strerror}.') from error
    reader = safetensors_files if safetensors_files.starts(start) else torch_files
    return reader.read(path, name)
