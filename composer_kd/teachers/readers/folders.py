"""Folders that ``save_pretrained`` writes: one file of weights, or several with an index."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from composer_kd.errors import CheckpointError
from composer_kd.teachers.readers.damage import damaged, not_a_file

__all__ = ['FILES', 'INDEX', 'holds_weights', 'read', 'weight_map']

# In the order in which from_pretrained looks for them.
FILES = ('model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin', 'pytorch_model.bin.index.json')
INDEX = '.index.json'
_SUFFIXES = ('.safetensors', '.bin', '.pt', '.pth', '.ckpt', '.th', '.tar')


def holds_weights(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is one of ``save_pretrained``.

    Example:
        >>> holds_weights('/')
        False
    """
    return _weights_in(path) is not None


def _weights_in(path: str | os.PathLike[str]) -> str | None:
    return next((file for file in FILES if os.path.lexists(os.path.join(path, file))), None)


def read(path: str, name: str, read_file: Callable[[str, str], Any]) -> Any:
    """Reads the weights of a folder.

    Args:
        path: The folder.
        name: How messages call it.
        read_file: Reads one file: ``(path, name) -> content``.

    Raises:
        CheckpointError: If the folder holds no weights that are known, or a part of them is missing.
    """
    found = _weights_in(path)
    if found is None:
        raise _no_weights(Path(path), name)
    place, called = os.path.join(path, found), f'{name.rstrip("/")}/{found}'
    return _read_shards(place, called, read_file) if found.endswith(INDEX) else read_file(place, called)


def _read_shards(index: str, name: str, read_file: Callable[[str, str], Any]) -> dict[str, Tensor]:
    """Reads the files that an index names, and takes from each the tensors that the index assigns to it."""
    shards: dict[str, list[str]] = {}
    for key, shard in weight_map(index, name).items():
        shards.setdefault(shard, []).append(key)
    folder, called = os.path.dirname(index), os.path.dirname(name)
    weights: dict[str, Tensor] = {}
    for shard, keys in shards.items():
        content = read_file(os.path.join(folder, shard), f'{called}/{shard}')
        missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), Tensor)]
        if missing:
            raise damaged(f'{called}/{shard}', f'{name} says that it holds {", ".join(missing[:5])}')
        weights.update({key: content[key] for key in keys})
    return weights


def weight_map(index: str, name: str) -> dict[str, str]:
    """Reads from an index in which file each tensor is.

    Args:
        index: The file of the index.
        name: How messages call it.

    Raises:
        CheckpointError: If it is damaged, or names a file outside its folder.
    """
    if not os.path.isfile(index):
        raise not_a_file(name)
    try:
        content = json.loads(Path(index).read_bytes())
        files = content['weight_map']
        plain = all(isinstance(shard, str) and Path(shard).name == shard != '..' for shard in files.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise damaged(name, error) from error
    if not files or not plain:
        raise damaged(name, 'expected weight_map to give for each tensor the name of a file in this folder')
    return dict(files)


def _no_weights(folder: Path, name: str) -> CheckpointError:
    try:
        inside = sorted(os.listdir(folder))
    except OSError as error:
        return CheckpointError(f'{name} cannot be read: {error.strerror}.')
    if '.metadata' in inside or any(file.endswith('.distcp') for file in inside):
        return CheckpointError(
            f'{name} is a folder with a sharded checkpoint, which has to be merged into one file first '
            '(torch.distributed.checkpoint.format_utils.dcp_to_torch_save).'
        )
    if any(file.startswith('adapter_model.') for file in inside):
        return CheckpointError(
            f'{name} is a folder with an adapter alone, which is not a model: merge it into its base model '
            '(peft: merge_and_unload, then save_pretrained), and pass that folder.'
        )
    files = [file for file in inside if file.endswith(_SUFFIXES)]
    remedy = f'Pass one of its files: {", ".join(files[:10])}.' if files else 'It holds no file of weights.'
    return CheckpointError(
        f'{name} is a folder: expected a file, or a folder of save_pretrained with one of {", ".join(FILES)}. {remedy}'
    )
