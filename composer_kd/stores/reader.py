"""Reading one column of a store."""

from __future__ import annotations

import pathlib

import numpy as np
from numpy.typing import NDArray

from composer_kd.errors import StoreError
from composer_kd.stores.columns import Column
from composer_kd.stores.files import checksum, mapped, own_file
from composer_kd.stores.formats import Records
from composer_kd.stores.manifest import Manifest

__all__ = ['ColumnReader']


class ColumnReader:
    """The records of one column, mapped into memory; a shard is verified before its first record is given out.

    Args:
        folder: The folder of the store.
        manifest: Its manifest.
        column: The column.

    Raises:
        StoreError: If the file is missing, lies elsewhere, or has another size than the manifest says.
    """

    def __init__(self, folder: pathlib.Path, manifest: Manifest, column: Column) -> None:
        self.column = column
        self._file = own_file(folder, column.file)
        self._checksums = [shard.checksums.get(column.name) for shard in manifest.shards]
        counts = np.array([column.records(shard) for shard in manifest.shards], np.int64)
        self._ends = counts.cumsum()
        self._verified = np.zeros(len(counts), np.bool_)
        self._all_verified = False
        expected, size = int(self._ends[-1]) * column.nbytes, self._file.stat().st_size
        if size != expected:
            raise StoreError(
                f'{self._file}: expected {expected:,} bytes, got {size:,}: it is truncated, or of another store. '
                'Copy it anew, or build the store anew'
            )
        self._records = mapped(self._file, column.nbytes)

    def take(self, positions: NDArray[np.int64]) -> Records:
        """Copies records.

        Args:
            positions: ``(n,)`` Their numbers in the column.

        Returns:
            ``(n, nbytes)``

        Raises:
            StoreError: If a shard among them is damaged.
        """
        if not self._all_verified:
            self.verify(self._ends.searchsorted(positions, side='right'))
        return self._records.take(positions, axis=0)

    def verify(self, shards: NDArray[np.int64]) -> None:
        """Verifies the checksums of shards, each once.

        Raises:
            StoreError: If one is damaged.
        """
        for number in np.unique(shards[~self._verified[shards]]).tolist():
            start = self._ends[number - 1] if number else 0
            if checksum(self._records[start : self._ends[number]]) != self._checksums[number]:
                raise StoreError(
                    f'{self._file}: shard {number} (records {start:,} to {self._ends[number] - 1:,}) has another '
                    'checksum than in the manifest: it is damaged. Copy the file anew, or build the store anew'
                )
            self._verified[number] = True
        self._all_verified = bool(self._verified.all())
