"""Checks of a zip archive of ``torch.save`` that ``torch.load`` leaves out.

``torch.load`` compares no checksums, and takes the sizes of storages from the pickle: a bit that flipped gives other
weights, and a record that is too short gives whatever lies behind it in memory or, if the file is mapped, in the file.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from composer_kd.errors import CheckpointError
from composer_kd.teachers.readers.damage import damaged

__all__ = ['Archive', 'check']

_MAGIC = b'PK\x03\x04'  # by which torch.load knows an archive
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_IS_FOLDER = 0x10  # among the attributes of DOS
_CHUNK = 1 << 20
# Weights seldom shrink to a half. Entries that expand beyond both bounds are taken for an attempt to fill the memory.
_LARGEST_RATIO, _LARGEST_SIZE = 100, 1 << 28


@dataclass(frozen=True)
class Archive:
    """What is known of a file of ``torch.save`` before it is loaded.

    Args:
        is_zip: Whether it is a zip archive.
        is_stored: Whether it is one without compression, which can be mapped into memory.
    """

    is_zip: bool
    is_stored: bool


def check(path: str, name: str) -> Archive:
    """Checks the records of an archive against their checksums, and their sizes against those of its tensors.

    Args:
        path: A file of ``torch.save``; one in the older format, without checksums, is not checked.
        name: How messages call it.

    Raises:
        CheckpointError: If a record is damaged, too short, or expands to far more than weights do.
    """
    with open(path, 'rb') as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return Archive(is_zip=False, is_stored=False)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_directory(entries, Path(path).stat().st_size, name)
            _check_contents(archive, entries, name)
            _check_storages(archive, entries, name)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise damaged(name, error) from error
    return Archive(is_zip=True, is_stored=all(entry.compress_type == zipfile.ZIP_STORED for entry in entries))


def _check_directory(entries: list[zipfile.ZipInfo], size: int, name: str) -> None:
    """Checks what the archive says of its records, before anything is read."""
    names = [entry.filename for entry in entries]
    if any(entry.external_attr & _IS_FOLDER for entry in entries):  # torch.load reads nothing of these
        raise damaged(name, 'a record is marked as a folder')
    if len(set(names)) < len(names) or sum(entry.compress_size for entry in entries) > size:
        raise damaged(name, 'its records overlap')
    if any(PurePosixPath(record).name == 'constants.pkl' for record in names):
        raise CheckpointError(
            f'{name} is a TorchScript module, not a state dict. Give the module itself: torch.jit.load(path).'
        )
    if not any(PurePosixPath(record).name == 'data.pkl' for record in names):
        raise damaged(name, f'a zip archive of {", ".join(names[:5])}, not one of torch.save')
    if any(entry.compress_type not in _READABLE for entry in entries):
        raise CheckpointError(
            f'{name} is compressed in a way that torch.load does not read. Pack it without compression.'
        )
    expands = sum(entry.file_size for entry in entries)
    if expands > _LARGEST_SIZE and expands > _LARGEST_RATIO * size:
        raise CheckpointError(
            f'Refused to load {name}: {size} bytes that expand to {expands} would fill the memory with zeros. '
            'If they are weights, pack the archive without compression.'
        )


def _check_contents(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], name: str) -> None:
    """Reads every record to the end, which compares it with its checksum."""
    if not any(entry.CRC for entry in entries):  # written after torch.serialization.set_crc32_options(False)
        for entry in entries:
            del entry.CRC  # zipfile then compares nothing
    for entry in entries:
        read = 0
        with archive.open(entry) as record:
            while chunk := record.read(_CHUNK):
                read += len(chunk)
        if read != entry.file_size:
            raise damaged(name, f'{entry.filename} has {read} bytes in place of {entry.file_size}')


def _check_storages(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], name: str) -> None:
    """Checks that the record of each storage is as long as its tensors take it to be."""
    sizes = {entry.filename: entry.file_size for entry in entries}
    root = entries[0].filename.partition('/')[0]  # as torch.load finds it
    with archive.open(f'{root}/data.pkl') as file:
        for key, needed in _storages(file, name):
            record = f'{root}/data/{key}'
            if sizes.get(record, -1) < needed:
                raise damaged(name, f'{record} has {sizes.get(record, 0)} bytes, and its tensors need {needed}')


def _storages(file: Any, name: str) -> list[tuple[str, int]]:
    """The key and the size in bytes of each storage that a pickle names."""
    inspector = _Inspector(file, encoding='utf-8')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # torch's own, of the storages that have a type
            inspector.load()
    except (Exception, MemoryError) as error:  # a damaged pickle may raise anything
        raise damaged(name, error) from error
    return inspector.storages


class _Inert:
    """Stands for whatever a pickle names; taking part in unpickling does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        """Takes the items of a list, and forgets them."""

    add = append = extend


class _Inspector(pickle.Unpickler):
    """Finds the storages that a pickle names. Nothing is imported or made: every class is a stand-in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.storages: list[tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        return type(name.rpartition('.')[2] or 'Unnamed', (_Inert,), {'named': (module, name)})

    def persistent_load(self, identity: Any) -> Any:
        _, kind, key, _, numel = identity
        module, name = kind.named
        if module.partition('.')[0] != 'torch' or not name.endswith('Storage') or numel < 0:
            raise pickle.UnpicklingError(f'{module}.{name} is not a storage')
        self.storages.append((str(key), int(numel) * _item_size(name)))
        return _Inert()


def _item_size(storage: str) -> int:
    """The size of an element in bytes: ``FloatStorage`` holds floats, ``UntypedStorage`` bytes."""
    dtype = getattr(getattr(torch, storage, None), 'dtype', None)
    return dtype.itemsize if isinstance(dtype, torch.dtype) else 1
