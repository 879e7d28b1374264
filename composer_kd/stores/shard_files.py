"""Shards while a store is built: a file each, written whole or not at all, and joined to columns at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from composer_kd.errors import StoreError
from composer_kd.stores.batch import spans_records
from composer_kd.stores.columns import SPANS, Column, columns_of, sizes_in, spans_of
from composer_kd.stores.files import checksum, read_json, sync, write_durably
from composer_kd.stores.formats import Records
from composer_kd.stores.manifest import Manifest
from composer_kd.stores.parts import Shard

__all__ = ['ShardFiles']

SHARDS_FOLDER = 'shards'
_SYNCED = 2**26  # bytes that are joined between two syncs


class ShardFiles:
    """The shards of a store that is built.

    A shard is ``000012.bin``, its columns one after another, and ``000012.json``, its sizes and checksums, which is
    written last: a shard counts as finished if both are there and agree. :meth:`join` appends each column of each
    shard to the column's file, and removes the shard when it is safe there, so the disk never holds a store twice.

    Args:
        folder: The folder of the store.
        manifest: What is stored.
    """

    def __init__(self, folder: pathlib.Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self.columns: dict[str, Column] = columns_of(manifest)
        self._folder = folder
        self._shards = folder / SHARDS_FOLDER

    def make_folder(self) -> None:
        """Makes the folder of the shards, and removes what killed processes were writing."""
        self._shards.mkdir(parents=True, exist_ok=True)
        for part in (*self._folder.glob('*.json.*.part'), *self._shards.glob('*.part')):
            part.unlink(missing_ok=True)

    def occupied(self) -> list[str]:
        """The names that the store needs for files of its own and that are there already."""
        names = [SHARDS_FOLDER, *(column.file for column in self.columns.values())]
        return [name for name in names if (self._folder / name).exists()]

    def write(self, number: int, columns: Mapping[str, Records], lengths: Mapping[str, NDArray[np.int64]]) -> None:
        """Writes a shard.

        Args:
            number: The number of the shard.
            columns: ``(records, nbytes)`` for each column.
            lengths: The number of each row's records, by the column of spans.
        """
        columns = {**columns, **{name: spans_records(of_rows) for name, of_rows in lengths.items()}}
        parts = [np.ascontiguousarray(columns[name]) for name in self.columns]
        checksums = {name: checksum(part) for name, part in zip(self.columns, parts)}
        nbytes = sum(part.nbytes for part in parts)
        rows = len(self.manifest.shard_rows(number))
        totals = {name: int(of_rows.sum()) for name, of_rows in lengths.items()}
        tokens = {path: totals[name] for path in self.manifest.features if (name := spans_of(path)) in totals}
        shard = Shard(rows, totals.get(SPANS, rows), nbytes, checksums, tokens)
        sizes_in(shard, self.columns)
        write_durably(self._file(number, 'bin'), *parts)
        write_durably(self._file(number, 'json'), json.dumps(dataclasses.asdict(shard)).encode())

    def finished(self, numbers: range) -> list[int]:
        """The shards among ``numbers`` that are there, whole and undamaged."""
        known = {number: shard for number in numbers if (shard := self._known(number)) is not None}
        whole = {number for number, shard in known.items() if self._is_whole(number, shard)}
        if len(whole) < len(known):
            whole |= self._joined({number: shard for number, shard in known.items() if number not in whole})
        return sorted(whole)

    def join(self) -> tuple[Shard, ...]:
        """Joins all shards to one file for each column.

        It can be killed, and called again.

        Returns:
            The shards.

        Raises:
            StoreError: If a shard is missing or damaged.
        """
        shards = tuple(self._required(number) for number in range(self.manifest.shard_count))
        safe: list[pathlib.Path] = []
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context(self._opened(column)) for name, column in self.columns.items()}
            ends = dict.fromkeys(files, 0)
            written = 0
            for number, shard in enumerate(shards):
                source = self._file(number, 'bin')
                starts = dict(ends)
                for name, size in sizes_in(shard, self.columns).items():
                    ends[name] += size
                if not source.exists() and self._matches(files, starts, shard):
                    continue
                self._append(source, files, starts, shard)
                safe.append(source)
                written += shard.nbytes
                if written >= _SYNCED:
                    _make_safe(files, safe)
                    written = 0
            for name, file in files.items():
                file.truncate(ends[name])
            _make_safe(files, safe)
        sync(self._folder)
        return shards

    def remove(self) -> None:
        """Removes what only the build needed."""
        if self._shards.exists():
            for file in self._shards.iterdir():
                file.unlink(missing_ok=True)
            self._shards.rmdir()

    def _append(self, source: pathlib.Path, files: dict[str, BinaryIO], starts: dict[str, int], shard: Shard) -> None:
        for (name, content), start in zip(self._contents(source, shard), starts.values()):
            if checksum(content) != shard.checksums[name]:
                raise _damaged(source)
            files[name].seek(start)
            files[name].write(content)

    def _contents(self, source: pathlib.Path, shard: Shard) -> Iterator[tuple[str, bytes]]:
        if not source.exists():
            raise _damaged(source)
        with source.open('rb') as stream:
            for name, size in sizes_in(shard, self.columns).items():
                yield name, stream.read(size)

    def _is_whole(self, number: int, shard: Shard) -> bool:
        source = self._file(number, 'bin')
        if not source.exists() or source.stat().st_size != shard.nbytes:
            return False
        return all(checksum(content) == shard.checksums[name] for name, content in self._contents(source, shard))

    def _joined(self, shards: dict[int, Shard]) -> set[int]:
        """The shards that an earlier attempt has joined already, as far as all before are known."""
        if not all((self._folder / column.file).exists() for column in self.columns.values()):
            return set()
        found, starts = set(), dict.fromkeys(self.columns, 0)
        with contextlib.ExitStack() as stack:
            files = {n: stack.enter_context((self._folder / c.file).open('rb')) for n, c in self.columns.items()}
            for number in range(max(shards) + 1):
                shard = shards.get(number) or self._known(number)
                if shard is None:
                    break
                if number in shards and self._matches(files, starts, shard):
                    found.add(number)
                for name, size in sizes_in(shard, self.columns).items():
                    starts[name] += size
        return found

    def _matches(self, files: Mapping[str, BinaryIO], starts: dict[str, int], shard: Shard) -> bool:
        for name, size in sizes_in(shard, self.columns).items():
            files[name].seek(starts[name])
            if checksum(files[name].read(size)) != shard.checksums[name]:
                return False
        return True

    def _known(self, number: int) -> Shard | None:
        """What the file of a shard says of it; None if it is missing or makes no sense."""
        try:
            shard = Shard(**read_json(self._file(number, 'json')))
            sizes_in(shard, self.columns)
        except (StoreError, OSError, TypeError):
            return None
        return shard if shard.rows == len(self.manifest.shard_rows(number)) else None

    def _required(self, number: int) -> Shard:
        shard = self._known(number)
        if shard is None:
            raise StoreError(f'{self._folder}: shard {number} was not written. Resume the build, which writes it')
        return shard

    def _opened(self, column: Column) -> BinaryIO:
        file = self._folder / column.file
        file.touch()
        return file.open('r+b')

    def _file(self, number: int, suffix: str) -> pathlib.Path:
        return self._shards / f'{number:06d}.{suffix}'


def _make_safe(files: dict[str, BinaryIO], safe: list[pathlib.Path]) -> None:
    """Makes what was joined durable, and removes the shards that it came from."""
    for file in files.values():
        file.flush()
        os.fsync(file.fileno())
    for source in safe:
        source.unlink(missing_ok=True)
    safe.clear()


def _damaged(source: pathlib.Path) -> StoreError:
    return StoreError(f'{source} is missing or damaged. Resume the build, which writes the shard anew')
