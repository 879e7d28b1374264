"""Files of a store: written durably, read within bounds, and only those that lie in its folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer_kd.errors import StorageError, StoreError
from composer_kd.presentation.units import bytes_text

__all__ = ['checksum', 'mapped', 'own_file', 'read_json', 'room_for', 'sync', 'umask', 'write_durably']

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LARGEST_JSON = 2**26  # bytes


def write_durably(file: pathlib.Path, *contents: Any) -> None:
    """Writes a file whole or not at all, also if the machine loses power.

    Args:
        file: The file, in an existing folder. The contents first go to a file of its own, ``*.part``, beside it.
        *contents: Bytes, or contiguous arrays, one after another.
    """
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f'{file.name}.', suffix='.part')
    part = pathlib.Path(name)
    try:
        with os.fdopen(handle, 'wb') as stream:
            for content in contents:
                stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.chmod(0o666 & ~umask())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(file.parent)


def umask() -> int:
    """The permissions that new files and folders are made without."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync(folder: pathlib.Path) -> None:
    """Makes the names of a folder durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def room_for(folder: pathlib.Path) -> Iterator[None]:
    """Names the folder whose disk is full, if that is why the block fails.

    Raises:
        StorageError: If a file cannot be written because there is no room for it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        reason = str(error.strerror or error)
        with contextlib.suppress(OSError):
            reason = f'{reason}; {bytes_text(shutil.disk_usage(folder).free)} free'
        raise StorageError(
            f'the disk of the store {folder} is full, or a quota or the largest size of a file is reached ({reason}). '
            'Make room, and resume the build: finished shards are kept. Or build in another folder, or with a smaller '
            'format, such as topk'
        ) from error


def checksum(content: Any) -> str:
    """The CRC-32 of bytes or of a contiguous array, in hexadecimal; it finds every single flipped bit.

    Example:
        >>> checksum(b'123456789')
        'cbf43926'
    """
    return f'{zlib.crc32(content):08x}'


def own_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Finds a file of a store's folder.

    Raises:
        StoreError: If it is missing, is no regular file, or is a link to another folder.
    """
    file = folder / name
    if not file.is_file():
        raise StoreError(f'{folder}: {name} is missing. Copy the store anew, or build it anew')
    if file.resolve().parent != folder.resolve():
        raise StoreError(f'{folder}: {name} is a link to {file.resolve()}, outside the store; copy the file itself')
    return file


def read_json(file: pathlib.Path) -> Any:
    """Reads JSON of bounded size; NaN and infinity are refused.

    Raises:
        StoreError: If it is too large, or no JSON.
    """
    if (size := file.stat().st_size) > _LARGEST_JSON:
        raise StoreError(f'{file}: expected at most {bytes_text(_LARGEST_JSON)}, got {bytes_text(size)}')
    try:
        return json.loads(file.read_bytes().decode('utf-8'), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise StoreError(f'{file}: expected JSON, but {error}. The file is damaged: copy or build it anew') from error


def _refuse(constant: str) -> None:
    raise ValueError(f'{constant} is no number of JSON')


def mapped(file: pathlib.Path, nbytes: int) -> NDArray[np.uint8]:
    """Maps a file of records into memory, for reading.

    Args:
        file: The file, of a whole number of records.
        nbytes: The bytes of a record.

    Returns:
        ``(records, nbytes)``; read from the disk where it is looked at.
    """
    if file.stat().st_size == 0:
        return np.zeros((0, nbytes), np.uint8)
    # As a plain array: the subclass numpy.memmap costs microseconds at each use.
    return np.asarray(np.memmap(file, np.uint8, 'r')).reshape(-1, nbytes)
