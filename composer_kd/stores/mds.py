"""Records in shards of MosaicML Streaming (MDS), in a folder or an object store: the extra ``streaming``."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from typing_extensions import override

from composer_kd.errors import ConfigError, StoreError
from composer_kd.presentation.addresses import without_credentials
from composer_kd.stores.columns import Column
from composer_kd.stores.files import checksum, own_file, read_json
from composer_kd.stores.formats import Hidden, Records
from composer_kd.stores.manifest import MANIFEST_FILE, Manifest, read_manifest
from composer_kd.stores.source import RecordSource

__all__ = ['HASH', 'INDEX_FILE', 'MDSRecords', 'fetched', 'holds', 'import_streaming', 'is_remote']

INDEX_FILE = 'index.json'
HASH = 'xxh3_64'  # of each shard, in the index; the checksum of the index is in the manifest
_RETRIES, _SECONDS = 2, 60.0
_HEAD_FILE = 'head.pt'  # of hidden states
_TEACHER_FILE = 'teacher.yaml'  # which model was stored

Rows = NDArray[np.int64]


def import_streaming() -> Any:
    """Imports MosaicML Streaming.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import streaming.base.format
        import streaming.base.hashing
        import streaming.base.storage
    except ImportError as error:
        raise ConfigError(
            f"a store in MDS needs MosaicML Streaming ({error}): pip install 'composer_kd[streaming]'"
        ) from error
    return streaming


def is_remote(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one of an object store.

    Example:
        >>> is_remote('s3://bucket/store'), is_remote('runs/store')
        (True, False)
    """
    return '://' in os.fspath(folder)


def fetched(remote: str, local: str | os.PathLike[str] | None) -> pathlib.Path:
    """Fetches the small files of a store in MDS; its shards follow when they are read.

    The folder is one for each manifest, so that the shards of another store at the same address are never taken.

    Args:
        remote: The URI or folder of the store.
        local: The folder in which stores are kept; None for one among temporary files.

    Returns:
        The folder of this store's files.

    Raises:
        StoreError: If there is no store.
    """
    streaming = import_streaming()
    parent = (
        pathlib.Path(tempfile.gettempdir()) / f'composer_kd-{getpass.getuser()}'
        if local is None
        else pathlib.Path(local)
    )
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        new = pathlib.Path(name)
        _fetch(streaming, remote, new, MANIFEST_FILE)
        of = _hashed(new / MANIFEST_FILE)
        folder = parent / of
        with FileLock(parent / f'.{of}.lock'):
            if not _is_of(folder / MANIFEST_FILE, of):
                folder.mkdir(exist_ok=True)
                _fetch(streaming, remote, new, INDEX_FILE)
                for file in (INDEX_FILE, MANIFEST_FILE):
                    os.replace(new / file, folder / file)
            if (read_manifest(folder).format or {}).get('kind') == Hidden.kind:
                _fetch_beside(streaming, remote, new, folder / _HEAD_FILE)  # one that is not linear is not kept
            _fetch_beside(streaming, remote, new, folder / _TEACHER_FILE)  # of `composer-kd cache` alone
    return folder


def holds(remote: str, name: str) -> bool:
    """Whether there is a file of this name at an address."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _fetch(import_streaming(), remote, pathlib.Path(folder), name)
        except StoreError:
            return False
    return True


def _hashed(file: pathlib.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]


def _is_of(file: pathlib.Path, of: str) -> bool:
    return file.is_file() and _hashed(file) == of


def _fetch(streaming: Any, remote: str, folder: pathlib.Path, name: str) -> None:
    download: Callable[..., None] = streaming.base.storage.CloudDownloader.direct_download
    try:
        download(f'{remote.rstrip("/")}/{name}', str(folder / name), _SECONDS)
    except Exception as error:  # each kind of object store has its own
        shown = without_credentials(remote)
        raise StoreError(
            f'{shown} holds no store in MDS, or it cannot be read: no {name} ({type(error).__name__}: {error}). Write '
            f'one with composer-kd cache YAML --mds {shown}'
        ) from error


def _fetch_beside(streaming: Any, remote: str, folder: pathlib.Path, file: pathlib.Path) -> None:
    """Fetches a file that a store may have, by way of a folder, unless it is there."""
    if not file.exists():
        with contextlib.suppress(StoreError):
            _fetch(streaming, remote, folder, file.name)
            os.replace(folder / file.name, file)


class MDSRecords(RecordSource):
    """The records of a store in MDS: each row is a sample, whose columns are bytes.

    Args:
        folder: The local folder with the manifest and the index, and with the shards, if they are there.
        manifest: The manifest.
        columns: The columns of the store; those of spans are left out, as MDS knows the sizes of samples.
        remote: The URI or folder from which missing shards are fetched.

    Raises:
        StoreError: If the index is not that of the manifest, names files elsewhere, or a shard is missing.
        ConfigError: If MosaicML Streaming is not installed.
    """

    def __init__(
        self, folder: pathlib.Path, manifest: Manifest, columns: Mapping[str, Column], remote: str | None = None
    ) -> None:
        streaming = import_streaming()
        self._folder, self._hash = folder, streaming.base.hashing.get_hash
        self._columns = {name: column for name, column in columns.items() if not is_span(column, columns)}
        infos = self._infos(manifest)
        try:
            self._shards = [streaming.base.format.reader_from_json(str(folder), '', info) for info in infos]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f'{folder / INDEX_FILE}: expected the index of a store in MDS: {error}') from error
        self._hashes = [info['raw_data']['hashes'][HASH] for info in infos]
        self._ends = np.array([info['samples'] for info in infos], np.int64).cumsum()
        self._verified = np.zeros(len(infos), np.bool_)
        self._sizes = [info['raw_data']['bytes'] for info in infos]
        self._stream = None
        if remote is not None:
            self._stream = streaming.Stream(
                remote=remote, local=str(folder), download_retry=_RETRIES, download_timeout=_SECONDS, keep_zip=False
            )
        else:
            for info in infos:
                self._check_size(info)
        self._last: tuple[bytes, list[dict[str, bytes]]] = (b'', [])

    @property
    @override
    def nbytes(self) -> int:
        return sum(self._sizes)

    @override
    def take(self, name: str, rows: Rows) -> Records:
        content = bytearray().join(sample[name] for sample in self._samples(rows))  # which may be written to
        return np.frombuffer(content, np.uint8).reshape(-1, self._columns[name].nbytes)

    @override
    def lengths(self, name: str, rows: Rows) -> Rows:
        nbytes = self._columns[name].nbytes
        return np.array([len(sample[name]) // nbytes for sample in self._samples(rows)], np.int64)

    @override
    def verify(self) -> None:
        for number in range(len(self._shards)):
            self._prepare(number)

    def _samples(self, rows: Rows) -> list[dict[str, bytes]]:
        """The samples of rows; those of the last call are kept, as several columns are read of a batch."""
        key = rows.tobytes()
        if self._last[0] != key:
            numbers = self._ends.searchsorted(rows, side='right')
            for number in np.unique(numbers).tolist():
                self._prepare(number)
            starts = np.concatenate([np.zeros(1, np.int64), self._ends])[numbers]
            self._last = key, [self._sample(*place) for place in zip(numbers.tolist(), (rows - starts).tolist())]
        return self._last[1]

    def _sample(self, number: int, place: int) -> dict[str, bytes]:
        try:
            sample: dict[str, bytes] = self._shards[number][place]
        except (ValueError, IndexError) as error:  # its hash is right, so it was written so
            raise StoreError(f'{self._folder}: sample {place} of shard {number} is none: {error}') from error
        for name, column in self._columns.items():
            size = len(sample[name])
            if size % column.nbytes or (column.spans is None and size != column.nbytes):
                raise StoreError(f'{self._folder}: sample {place} of shard {number} has {size} bytes of {name}')
        return sample

    def _prepare(self, number: int) -> None:
        """Fetches a shard if it is missing, and verifies it, once."""
        if self._verified[number]:
            return
        shard = self._shards[number]
        file = self._folder / shard.raw_data.basename
        if self._stream is not None and not self._is_whole(number, file):
            with FileLock(self._folder / '.fetching.lock'):
                if not self._is_whole(number, file):  # a download that was ended leaves a part
                    file.unlink(missing_ok=True)
                try:
                    self._stream.prepare_shard(shard)
                except Exception as error:  # each kind of object store has its own
                    raise StoreError(f'{file} cannot be fetched: {type(error).__name__}: {error}') from error
        if self._hash(HASH, own_file(self._folder, file.name).read_bytes()) != self._hashes[number]:
            raise StoreError(
                f'{file} has another hash than in the index: it is damaged. Remove it, to have it fetched anew, or '
                'write the store anew'
            )
        self._verified[number] = True

    def _is_whole(self, number: int, file: pathlib.Path) -> bool:
        return file.is_file() and file.stat().st_size == self._sizes[number]

    def _infos(self, manifest: Manifest) -> list[dict[str, Any]]:
        """The entries of the index, if they are those of this store and of plain bytes."""
        file = own_file(self._folder, INDEX_FILE)
        if checksum(file.read_bytes()) != manifest.index:
            raise StoreError(f'{file} is not the index of the manifest beside it. Copy the store anew')
        index = read_json(file)
        try:
            infos = list(index['shards'])
            if index['version'] != 2 or sum(info['samples'] for info in infos) != manifest.rows:
                raise ValueError(f'expected version 2 with {manifest.rows} samples')
            for info in infos:
                self._check_info(info)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f'{file}: expected the index of a store in MDS: {error}') from error
        return infos

    def _check_info(self, info: Mapping[str, Any]) -> None:
        names, name = sorted(self._columns), info['raw_data']['basename']
        expected = {
            'format': 'mds', 'compression': None, 'zip_data': None, 'column_names': names,
            'column_encodings': ['bytes'] * len(names), 'column_sizes': [None] * len(names),
        }  # fmt: skip
        for key, value in expected.items():
            if info[key] != value:
                raise ValueError(f'{key}: expected {value!r}, got {info[key]!r}')
        if not isinstance(name, str) or name != pathlib.PurePath(name).name or name.startswith('.'):
            raise ValueError(f'{name!r} is no name of a file')
        if not isinstance(info['raw_data']['hashes'][HASH], str):
            raise ValueError(f'expected a hash {HASH}')
        for number in (info['samples'], info['raw_data']['bytes']):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f'expected a positive number, got {number!r}')

    def _check_size(self, info: Mapping[str, Any]) -> None:
        file, expected = own_file(self._folder, info['raw_data']['basename']), info['raw_data']['bytes']
        if (size := file.stat().st_size) != expected:
            raise StoreError(f'{file}: expected {expected:,} bytes, got {size:,}: it is truncated. Copy it anew')


def is_span(column: Column, columns: Mapping[str, Column]) -> bool:
    """Whether a column says which records of another are those of a sample."""
    return any(other.spans == column.name for other in columns.values())
