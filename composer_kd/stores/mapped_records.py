"""Records in memory-mapped columns, found by row."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from composer_kd.errors import StoreError
from composer_kd.stores.columns import Column, check_shards
from composer_kd.stores.formats import Records
from composer_kd.stores.manifest import Manifest
from composer_kd.stores.reader import ColumnReader
from composer_kd.stores.source import RecordSource

__all__ = ['MappedRecords']

Rows = NDArray[np.int64]


class MappedRecords(RecordSource):
    """The columns of a store, each one file; those with any number of records a row have spans, a column too.

    Args:
        folder: The folder of the store.
        manifest: Its manifest.
        columns: Its columns.

    Raises:
        StoreError: If the manifest contradicts itself, or a file is missing, lies elsewhere, or has another size.
    """

    def __init__(self, folder: pathlib.Path, manifest: Manifest, columns: Mapping[str, Column]) -> None:
        check_shards(manifest, dict(columns))
        self._folder, self._manifest = folder, manifest
        self._readers = {name: ColumnReader(folder, manifest, column) for name, column in columns.items()}
        spans = {column.spans: column for column in columns.values() if column.spans is not None}
        self._ends = {
            name: np.array([column.records(shard) for shard in manifest.shards], np.int64).cumsum()
            for name, column in spans.items()
        }

    @property
    @override
    def nbytes(self) -> int:
        return sum(shard.nbytes for shard in self._manifest.shards)

    @override
    def take(self, name: str, rows: Rows) -> Records:
        reader = self._readers[name]
        if reader.column.spans is None:
            return reader.take(rows)
        starts, ends = self._spans(rows, reader.column.spans)
        lengths = ends - starts
        before = lengths.cumsum() - lengths
        return reader.take(np.repeat(starts - before, lengths) + np.arange(lengths.sum()))

    @override
    def lengths(self, name: str, rows: Rows) -> Rows:
        spans = self._readers[name].column.spans
        if spans is None:
            return np.ones(len(rows), np.int64)
        starts, ends = self._spans(rows, spans)
        return ends - starts

    @override
    def verify(self) -> None:
        for reader in self._readers.values():
            reader.verify(np.arange(self._manifest.shard_count))

    def _spans(self, rows: Rows, name: str) -> tuple[Rows, Rows]:
        """Where the records of rows begin and end, in the whole store, by a column of spans."""
        spans, shards = self._readers[name].take(rows).view('<i8'), self._ends[name]
        number = rows // self._manifest.shard_samples
        spans = spans + np.where(number > 0, shards[number - 1], 0)[:, None]
        starts, ends = spans[:, 0], spans[:, 1]
        if (starts < 0).any() or (ends < starts).any() or (ends > shards[-1]).any():
            raise StoreError(f'{self._folder}: spans of samples lie outside the store; build it anew')
        return starts, ends
