"""Copies checkpoints behind URIs to this machine, through Composer's object stores."""

from __future__ import annotations

import sys
from pathlib import Path

from composer.utils import get_file

from composer_kd.errors import CheckpointError, CheckpointNotFoundError
from composer_kd.presentation.addresses import HIDDEN, has_credentials, without_credentials
from composer_kd.teachers.readers.folders import FILES, INDEX, weight_map

__all__ = ['fetch']


def fetch(uri: str, folder: str) -> str:
    """Copies a checkpoint to this machine.

    Args:
        uri: The URI of a file; that of a folder of ``save_pretrained`` ends in a slash. The index of a sharded one
            brings its shards along.
        folder: An empty folder on this machine.

    Returns:
        The path of the file, or of the folder if there are several.

    Raises:
        CheckpointNotFoundError: If nothing is there.
        CheckpointError: If it cannot be reached; the message shows the URI without the keys in it.
    """
    if not uri.partition('?')[0].endswith('/'):
        return (
            _with_shards(uri, folder)
            if uri.partition('?')[0].endswith(INDEX)
            else _one(uri, str(Path(folder, 'checkpoint.pt')))
        )
    for name in FILES:
        try:
            found = _joined(uri, name)
            return _with_shards(found, folder) if name.endswith(INDEX) else _one(found, str(Path(folder, name)))
        except CheckpointNotFoundError:
            continue
    raise CheckpointNotFoundError(
        f'No checkpoint at {without_credentials(uri)}: expected a folder of save_pretrained with one of '
        f'{", ".join(FILES)}. Give the URI of a file, without a slash at its end, for another.'
    )


def _with_shards(index: str, folder: str) -> str:
    file = _one(index, str(Path(folder, f'model.safetensors{INDEX}')))
    for shard in sorted(set(weight_map(file, without_credentials(index)).values())):
        _one(_joined(index, shard), str(Path(folder, shard)))
    return folder


def _joined(uri: str, name: str) -> str:
    """The URI of a file beside another; a query is signed for one file, and is of no use for the next."""
    if '?' in uri:
        raise CheckpointError(
            f'{without_credentials(uri)} is one of several files, and the key in its query is for this one alone. '
            'Copy the folder to this machine first.'
        )
    return f'{uri.rpartition("/")[0]}/{name}'


def _one(uri: str, destination: str) -> str:
    shown = without_credentials(uri)
    if HIDDEN in uri and has_credentials(uri):
        raise CheckpointError(
            f'{shown} was written down without the key in it. Give the address anew; as ${{oc.env:NAME}} in a YAML it '
            'is read from the environment each time.'
        )
    try:
        # The bar shows the beginning of the address.
        get_file(uri, destination, progress_bar=sys.stderr.isatty() and not has_credentials(uri))
    except Exception as error:  # each object store has its own errors
        said = f'{type(error).__name__}: {without_credentials(str(error), uri)}'
        cause = None if has_credentials(uri) else error  # the store's own error shows the key in a traceback
        if isinstance(error, FileNotFoundError):
            raise CheckpointNotFoundError(f'No checkpoint at {shown}: {said}') from cause
        raise CheckpointError(f'Could not fetch the checkpoint {shown}: {said}') from cause
    return destination
