"""Records of rows that are not yet a whole shard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from composer_kd.stores.columns import Column
from composer_kd.stores.formats import Records

__all__ = ['Buffer']

_Array = TypeVar('_Array', bound=NDArray[Any])


class Buffer:
    """Collects the records of batches, and gives out those of as many rows as a shard has.

    Attributes:
        rows: The number of rows that it holds.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._lengths: dict[str, list[NDArray[np.int64]]] = {}
        self._records: dict[str, list[Records]] = {}

    def add(self, rows: int, records: Mapping[str, Records], lengths: Mapping[str, NDArray[np.int64]]) -> None:
        """Adds a batch.

        Args:
            rows: The number of its rows.
            records: ``(n, nbytes)`` for each column.
            lengths: ``(rows,)`` The number of each row's records, by the column of spans.
        """
        self.rows += rows
        for name, count in lengths.items():
            self._lengths.setdefault(name, []).append(count)
        for name, part in records.items():
            self._records.setdefault(name, []).append(part)

    def pop(self, rows: int, columns: Mapping[str, Column]) -> tuple[dict[str, Records], dict[str, NDArray[np.int64]]]:
        """Takes out the records and lengths of the first rows.

        Args:
            rows: The number of rows, at most as many as there are.
            columns: The columns.
        """
        lengths = _split(self._lengths, dict.fromkeys(self._lengths, rows))
        cuts = {spans: int(of_rows.sum()) for spans, of_rows in lengths.items()}
        records = _split(self._records, {name: cuts.get(columns[name].spans or '', rows) for name in self._records})
        self.rows -= rows
        return records, lengths


def _split(parts: dict[str, list[_Array]], cuts: Mapping[str, int]) -> dict[str, _Array]:
    """Takes the beginning out of each list of arrays, and leaves the rest there."""
    taken = {}
    for name, cut in cuts.items():
        whole: Any = parts[name][0] if len(parts[name]) == 1 else np.concatenate(parts[name])
        taken[name], parts[name] = whole[:cut], [whole[cut:]]
    return taken
