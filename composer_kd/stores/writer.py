"""Building a store, by any number of processes, in any number of attempts."""

from __future__ import annotations

import errno
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import TracebackType

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from composer_kd.errors import StoreError
from composer_kd.stores.batch import BatchRecords
from composer_kd.stores.buffer import Buffer
from composer_kd.stores.files import room_for
from composer_kd.stores.manifest import MANIFEST_FILE, UNFINISHED_FILE, Manifest, read_manifest, write_manifest
from composer_kd.stores.shard_files import ShardFiles
from composer_kd.stores.store import Store

__all__ = ['StoreWriter']

_LOCK_SECONDS = 1.0


class StoreWriter:
    """Writes a store shard by shard; after a kill it goes on, and the store becomes the same to the byte.

    Each process (rank) writes the rows that :meth:`rows` names, in this order, in batches of any size. Row
    ``view * samples + sample`` is a sample in a view. When all ranks are done, rank 0 calls :meth:`finish`. Rank 0 is
    made first, as it prepares the folder; the caller sees to that, and to waiting before ``finish``, with barriers.

    Args:
        folder: The folder of the store; made if it does not exist.
        manifest: What is stored, without shards.
        resume: Whether to keep the finished shards of an earlier attempt. Without it such an attempt is an error.
        rank: The number of this process.
        ranks: The number of processes.

    Raises:
        StoreError: If another process builds here; the folder holds a store, or an unfinished one of which ``resume``
            says nothing or that is of something else.
        StorageError: If the disk is full.

    Example:
        >>> import tempfile, torch
        >>> from composer_kd.stores import Dense
        >>> manifest = Manifest(3, 2, 10, 'samples', shard_samples=4, format=Dense().settings())
        >>> with StoreWriter(tempfile.mkdtemp(), manifest) as writer:
        ...     for rows in writer.batches(size=2):
        ...         writer.add(logits=torch.randn(len(rows), 10), digests=np.zeros(len(rows), np.uint16))
        ...     store = writer.finish()
        >>> store
        Store('...', samples=3, views=2, format=Dense(dtype='float16'))
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        manifest: Manifest,
        resume: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if not 0 <= rank < ranks:
            raise StoreError(f'rank: expected 0 to {ranks - 1}, got {rank}')
        self.folder = pathlib.Path(folder)
        self.manifest = replace(manifest, shards=())
        self._rank = rank
        self._shards = ShardFiles(self.folder, self.manifest)
        self._records = BatchRecords(self.manifest)
        with room_for(self.folder):
            self._lock = self._locked()
            try:
                self._is_finished = self._prepare(resume)
                self._own = range(0) if self._is_finished else range(rank, manifest.shard_count, ranks)
                self._kept = self._shards.finished(self._own) if resume else []
            except BaseException:
                self.close()
                raise
        kept = set(self._kept)
        self._left = [number for number in self._own if number not in kept]
        self._rows = np.concatenate([self._rows_of(number) for number in self._left] or [np.zeros(0, np.int64)])
        self._next = 0
        self._buffer = Buffer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process build here; finished shards stay."""
        self._lock.release()

    def rows(self) -> NDArray[np.int64]:
        """The rows that this rank has yet to write, in the order in which it must: ``(n,)``."""
        return self._rows[self._next :]

    def batches(self, size: int) -> Iterator[NDArray[np.int64]]:
        """Splits :meth:`rows` into batches that end where a shard ends.

        A shard then has the same batches in each attempt and with any number of ranks, and the same bytes, also if a
        teacher's outputs depend on the size of the batch in the last digit, as matrix products do.

        Args:
            size: The most rows of a batch.

        Example:
            >>> import tempfile
            >>> manifest = Manifest(10, 1, 3, 'samples', shard_samples=6, format={'kind': 'dense'})
            >>> [rows.tolist() for rows in StoreWriter(tempfile.mkdtemp(), manifest).batches(4)]
            [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]
        """
        rows = self.rows()
        shards = rows // self.manifest.shard_samples
        for shard in np.split(rows, np.flatnonzero(np.diff(shards)) + 1):
            yield from (shard[start : start + size] for start in range(0, len(shard), size))

    @property
    def kept_rows(self) -> int:
        """The number of rows of this rank that an earlier attempt finished."""
        return sum(len(self.manifest.shard_rows(number)) for number in self._kept)

    def add(
        self,
        logits: Tensor | None = None,
        features: Mapping[str, Tensor] | None = None,
        digests: NDArray[np.uint16] | None = None,
        lengths: NDArray[np.int64] | Tensor | None = None,
        tokens: Mapping[str, NDArray[np.int64] | Tensor] | None = None,
    ) -> None:
        """Adds the next rows of :meth:`rows`; a shard is written when its last row is there.

        Args:
            logits: ``(n, V)`` (hidden states ``(n, D)`` for :class:`.Hidden`), of all positions of the rows, those of
                the first row first; as the format takes them. None if none are stored.
            features: ``(n, *shape)`` by layer path: one for each position, token or row, as the manifest says.
            digests: ``(rows,)`` of the rows' inputs.
            lengths: ``(rows,)`` The number of positions of each row, if positions are tokens.
            tokens: ``(rows,)`` by layer path: the number of tokens of each row, of layers with features of each token.

        Raises:
            StoreError: If something is missing, of another size, or cannot be stored.
            StorageError: If the disk is full.
        """
        if digests is None:
            raise StoreError('digests: expected one for each row, got none')
        count = len(digests)
        if count > len(self._rows) - self._next:
            raise StoreError(f'expected at most {len(self._rows) - self._next} more rows, got {count}')
        rows = self._rows[self._next : self._next + count]
        records, counts = self._records.of(rows, logits, features or {}, np.asarray(digests), lengths, tokens or {})
        self._next += count
        self._buffer.add(count, records, counts)
        while self._left and self._buffer.rows >= (size := len(self.manifest.shard_rows(self._left[0]))):
            number = self._left.pop(0)
            columns, lengths_of = self._buffer.pop(size, self._shards.columns)
            with room_for(self.folder):
                self._shards.write(number, columns, lengths_of)

    def finish(self) -> Store:
        """Joins the shards of all ranks, and writes the manifest; called by rank 0 when all ranks are done.

        It can be killed: the next attempt, with ``resume``, has no rows left to write and is finished anew.

        Returns:
            The store, opened.

        Raises:
            StoreError: If a shard of any rank is missing or damaged.
            StorageError: If the disk is full.
        """
        if self._rank != 0:
            raise StoreError(f'finish is for rank 0, this is rank {self._rank}')
        if len(self.rows()):
            raise StoreError(f'{len(self.rows())} rows of this rank are not written yet')
        with room_for(self.folder):
            if not self._is_finished:
                shards = self._shards.join()
                write_manifest(self.folder / MANIFEST_FILE, replace(self.manifest, shards=shards))
                self._is_finished = True
            (self.folder / UNFINISHED_FILE).unlink(missing_ok=True)
            self._shards.remove()
        return Store(self.folder)

    def _rows_of(self, number: int) -> NDArray[np.int64]:
        rows = self.manifest.shard_rows(number)
        return np.arange(rows.start, rows.stop, dtype=np.int64)

    def _locked(self) -> FileLock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(
                f'{self.folder}: expected a folder, or nothing, got a file. Give another folder'
            ) from error
        lock = FileLock(self.folder / f'.rank{self._rank}.lock')
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout as error:
            raise StoreError(
                f'{self.folder}: another process builds a store there. Wait for it, or give another folder'
            ) from error
        except (OSError, NotImplementedError) as error:  # some network file systems have no locks
            if getattr(error, 'errno', None) not in (None, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            warnings.warn(f'{self.folder} cannot be locked ({error}): let one build at a time use it', stacklevel=3)
        return lock

    def _prepare(self, resume: bool) -> bool:
        """Checks what the folder holds; whether the store is finished already."""
        finished, unfinished = self.folder / MANIFEST_FILE, self.folder / UNFINISHED_FILE
        if finished.exists() or unfinished.exists():
            name = MANIFEST_FILE if finished.exists() else UNFINISHED_FILE
            if not resume and self._rank == 0:
                what = 'a finished store' if finished.exists() else 'an unfinished store: resume its build'
                raise StoreError(f'{self.folder} holds {what}. Else remove the folder, or give another one')
            expected = {key: value for key, value in self.manifest.to_mapping().items() if key != 'shards'}
            read_manifest(self.folder, name).check(expected, str(self.folder))
        elif self._rank == 0:
            if occupied := self._shards.occupied():
                raise StoreError(
                    f'{self.folder} holds {occupied[0]}, but no manifest. Remove it, or give another folder'
                )
            write_manifest(unfinished, self.manifest)
        else:
            raise StoreError(f'{self.folder}: rank {self._rank} began before rank 0 had prepared the folder')
        if self._rank == 0 and not finished.exists():
            self._shards.make_folder()
        return finished.exists()
