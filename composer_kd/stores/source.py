"""Where a store's records come from: memory-mapped columns, or shards of MosaicML Streaming."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from composer_kd.stores.formats import Records

__all__ = ['RecordSource']


class RecordSource(Protocol):
    """Gives records by column and row; a shard is verified before its first record is given out."""

    @property
    def nbytes(self) -> int:
        """The bytes of all records, with what their files need besides."""

    def take(self, name: str, rows: NDArray[np.int64]) -> Records:
        """Reads the records of rows.

        Args:
            name: The column.
            rows: ``(n,)`` The numbers of the rows, of the store.

        Returns:
            ``(records, nbytes)`` Those of the first row, then those of the second, and so on.

        Raises:
            StoreError: If a shard among them is damaged.
        """

    def lengths(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of records of each row in a column: ``(n,)``.

        Raises:
            StoreError: If a shard among them is damaged.
        """

    def verify(self) -> None:
        """Verifies the checksums of all shards now.

        Raises:
            StoreError: If a shard is damaged.
        """
