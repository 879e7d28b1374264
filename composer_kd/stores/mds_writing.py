"""Writes a store as shards of MosaicML Streaming (MDS), in a folder or an object store."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import numpy as np

from composer_kd.errors import StorageError, StoreError
from composer_kd.presentation.addresses import without_credentials
from composer_kd.stores.columns import columns_of
from composer_kd.stores.files import checksum, room_for, sync, umask
from composer_kd.stores.manifest import MANIFEST_FILE, write_manifest
from composer_kd.stores.mds import HASH, INDEX_FILE, holds, import_streaming, is_remote, is_span
from composer_kd.stores.store import Store

__all__ = ['check_free', 'to_mds']

_ROWS = 1024  # read at once
_SHARD_BYTES = 2**26
_BESIDE = ('head.pt', 'teacher.yaml')


def to_mds(store: Store, out: str | os.PathLike[str]) -> None:
    """Copies a store into MosaicML Streaming's format, one MDS sample for each row, with the same manifest.

    Args:
        store: The store.
        out: A folder that does not exist, or an address of an object store: ``s3://``, ``gs://``, ``oci://`` or what
            else MosaicML Streaming takes. The manifest is written last: before, there is no store at this place.

    Raises:
        StoreError: If there is a store or other files already.
        StorageError: If the object store cannot be written.
        ConfigError: If MosaicML Streaming is not installed.
    """
    check_free(out)
    if is_remote(out):
        with tempfile.TemporaryDirectory() as name, room_for(pathlib.Path(name)):
            _write(store, pathlib.Path(name), os.fspath(out))
        return
    target = pathlib.Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    with room_for(target.parent), _replacing(target) as folder:
        _write(store, folder, None)


@contextlib.contextmanager
def _replacing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside another, which takes its name at the end."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f'.{target.name}.', suffix='.part'))
    try:
        yield folder
        folder.chmod(0o777 & ~umask())  # that of mkdtemp is for its owner alone
        folder.replace(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sync(target.parent)


def check_free(out: str | os.PathLike[str]) -> None:
    """Checks that a store may be copied to a place.

    Raises:
        StoreError: If there is a store or other files already.
        ConfigError: If MosaicML Streaming is not installed.
    """
    import_streaming()
    target = pathlib.Path(out)
    if not is_remote(out):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StoreError(f'{target} is there already. Remove it, or give another folder')
        return
    for name in (MANIFEST_FILE, INDEX_FILE):  # an index alone is that of another data set of Streaming
        if holds(os.fspath(out), name):
            raise StoreError(
                f'{without_credentials(os.fspath(out))} holds a store or another data set already: {name}. Remove it, '
                'or give another address'
            )


def _write(store: Store, folder: pathlib.Path, remote: str | None) -> None:
    streaming = import_streaming()
    columns = columns_of(store.manifest)
    names = [name for name, column in columns.items() if not is_span(column, columns)]
    place: str | tuple[str, str] = str(folder) if remote is None else (str(folder), remote)
    try:
        writer = streaming.MDSWriter(
            columns=dict.fromkeys(names, 'bytes'), out=place, keep_local=True, hashes=[HASH], size_limit=_SHARD_BYTES
        )
        for row in _rows(store, names):
            writer.write(row)
        writer.finish()
        index = checksum((folder / INDEX_FILE).read_bytes())
        for name in _BESIDE:
            if (store.folder / name).is_file():
                shutil.copyfile(store.folder / name, folder / name)
        write_manifest(folder / MANIFEST_FILE, dataclasses.replace(store.manifest, shards=(), index=index))
        if remote is not None:
            for name in (*_BESIDE, MANIFEST_FILE):
                if (folder / name).is_file():
                    writer.cloud_writer.upload_file(name)
    except (StoreError, OSError):
        raise
    except Exception as error:  # each kind of object store has its own
        raise StorageError(f'{without_credentials(str(remote))}: {type(error).__name__}: {error}') from error


def _rows(store: Store, names: list[str]) -> Iterator[dict[str, bytes]]:
    """The records of each row, by column."""
    for start in range(0, store.manifest.rows, _ROWS):
        rows = np.arange(start, min(start + _ROWS, store.manifest.rows))
        parts = {}
        for name in names:
            records, lengths = store.records.take(name, rows), store.records.lengths(name, rows)
            parts[name] = np.split(records, lengths.cumsum()[:-1])
        for at in range(len(rows)):
            yield {name: parts[name][at].tobytes() for name in names}
