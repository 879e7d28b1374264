"""Records of rows that are not yet a whole shard."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from composer_kd.stores.columns import Column
from composer_kd.stores.formats import Records

__all__ = ['Buffer']


class Buffer:
    """Collects the records of batches, and gives out those of as many rows as a shard has.

    Attributes:
        rows: The number of rows that it holds.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._lengths: list[NDArray[np.int64]] = []
        self._records: dict[str, list[Records]] = {}

    def add(self, records: Mapping[str, Records], lengths: NDArray[np.int64]) -> None:
        """Adds a batch.

        Args:
            records: ``(n, nbytes)`` for each column.
            lengths: The number of positions of each row.
        """
        self.rows += len(lengths)
        self._lengths.append(lengths)
        for name, part in records.items():
            self._records.setdefault(name, []).append(part)

    def pop(self, rows: int, columns: Mapping[str, Column]) -> tuple[dict[str, Records], NDArray[np.int64]]:
        """Takes out the records and lengths of the first rows.

        Args:
            rows: The number of rows, at most as many as there are.
            columns: The columns.
        """
        lengths = np.concatenate(self._lengths)
        positions = int(lengths[:rows].sum())
        taken = {}
        for name, parts in self._records.items():
            whole = np.concatenate(parts)
            cut = rows if columns[name].per_sample else positions
            taken[name], self._records[name] = whole[:cut], [whole[cut:]]
        self._lengths = [lengths[rows:]]
        self.rows -= rows
        return taken, lengths[:rows]
