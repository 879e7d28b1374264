"""Checks folders of ``torch.distributed.checkpoint`` before something else loads them, which would run code in them.

Such a folder has a pickled index, ``.metadata``, of what lies where in its ``.distcp`` files. The index is written when
all files are; torch unpickles it, and every object that is no tensor, without any restriction.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import io
import os
import pickle
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from typing_extensions import override

from composer_kd.errors import CheckpointError
from composer_kd.teachers.readers import torch_files
from composer_kd.teachers.readers.damage import damaged, not_a_file

__all__ = ['INDEX_OF_SHARDS', 'check']

INDEX_OF_SHARDS = '.metadata'

# What an index is made of: records of torch's own, sizes and types of tensors.
_ROOMS = ('torch.distributed.checkpoint.metadata', 'torch.distributed.checkpoint.filesystem')
_NAMES = {
    ('torch', 'Size'),
    ('torch', 'device'),
    ('torch.serialization', '_get_layout'),
    ('torch.distributed._shard.sharded_tensor.metadata', 'TensorProperties'),
    ('torch.distributed.checkpoint.planner', 'WriteItemType'),
    ('collections', 'OrderedDict'),
    ('pathlib', 'PosixPath'),
    ('pathlib', 'WindowsPath'),
}


@dataclass(frozen=True)
class _Part:
    """One value of the checkpoint: where it lies, and whether it is an object that is unpickled."""

    file: str
    offset: int
    length: int
    is_object: bool


def check(folder: str, name: str) -> None:
    """Checks that every part of a sharded checkpoint is there, and that loading it runs nothing.

    Args:
        folder: The folder.
        name: How messages call it.

    Raises:
        CheckpointError: If it is torn, damaged, or holds more than tensors and plain data.
    """
    if not os.path.lexists(os.path.join(folder, INDEX_OF_SHARDS)):
        raise damaged(name, f'{INDEX_OF_SHARDS}, which is written last, is missing: it was not saved to its end')
    for part in _parts(_index(folder, name), name):
        path = os.path.join(folder, part.file)
        size = _size(path, f'{name}/{part.file}')
        if not 0 <= part.offset <= part.offset + part.length <= size:
            raise damaged(f'{name}/{part.file}', f'it has {size} bytes, and {part.offset + part.length} are expected')
        if part.is_object:
            _check_object(path, part, f'{name}/{part.file}')


def _index(folder: str, name: str) -> Any:
    path = os.path.join(folder, INDEX_OF_SHARDS)
    _size(path, f'{name}/{INDEX_OF_SHARDS}')
    try:
        with open(path, 'rb') as file:
            return _Unpickler(file).load()
    except CheckpointError:
        raise
    except (Exception, MemoryError) as error:  # a damaged pickle may raise anything
        raise damaged(f'{name}/{INDEX_OF_SHARDS}', error) from error


def _parts(index: Any, name: str) -> Iterator[_Part]:
    try:
        entries = dict(index.state_dict_metadata.items())
        for key, where in index.storage_data.items():
            if os.path.basename(where.relative_path) != where.relative_path:
                raise damaged(name, f'{where.relative_path!r} is no file in this folder')
            is_object = type(entries.get(key.fqn)) is not TensorStorageMetadata
            yield _Part(where.relative_path, int(where.offset), int(where.length), is_object)
    except (AttributeError, TypeError, ValueError) as error:
        raise damaged(f'{name}/{INDEX_OF_SHARDS}', error) from error


def _size(path: str, name: str) -> int:
    try:
        found = os.stat(path)
    except OSError as error:
        raise damaged(name, f'{error.strerror}: a part of the checkpoint is missing') from error
    if not stat.S_ISREG(found.st_mode):
        raise not_a_file(name)
    return found.st_size


def _check_object(path: str, part: _Part, name: str) -> None:
    try:
        with open(path, 'rb') as file:
            file.seek(part.offset)
            content = io.BytesIO(file.read(part.length))
    except OSError as error:
        raise damaged(name, error) from error
    torch_files.load_plain(content, name)


_OPERATIONS = pickle._Unpickler.dispatch


def _set_state(unpickler: Any) -> None:
    """Sets the state of a record; that of a class or a member of an enumeration is everybody's."""
    target = unpickler.stack[-2]
    if isinstance(target, type) or not dataclasses.is_dataclass(target):
        raise CheckpointError(
            f'Refused to load a sharded checkpoint: its index changes {target!r}, which could run code. '
            'Nothing in it was run.'
        )
    _OPERATIONS[pickle.BUILD[0]](unpickler)


class _Unpickler(pickle._Unpickler):  # in Python: the one in C asks nobody whose state it sets
    """Makes the records of an index, and nothing else."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {**_OPERATIONS, pickle.BUILD[0]: _set_state}

    @override
    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if self._is_known(module, name) else None
        if found is None:
            raise CheckpointError(
                f'Refused to load a sharded checkpoint: its index asks for {module}.{name}, which could run code. '
                'Nothing in it was run.'
            )
        return found

    @staticmethod
    def _is_known(module: str, name: str) -> bool:
        if '.' in name:
            return False
        if module in _ROOMS:
            found = vars(importlib.import_module(module)).get(name)
            is_record = dataclasses.is_dataclass(found) or (isinstance(found, type) and issubclass(found, enum.Enum))
            return is_record and getattr(found, '__module__', None) == module
        return (module, name) in _NAMES or (module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype))
