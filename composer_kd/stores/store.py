"""Reading a store: memory-mapped, by view and sample."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.errors import StoreError, nearest
from composer_kd.stores.columns import DIGESTS, LOGITS, SPANS, check_shards, columns_of, spans_of
from composer_kd.stores.formats import Format, Stored, format_from
from composer_kd.stores.formats.floats import from_bytes
from composer_kd.stores.manifest import Manifest, read_manifest
from composer_kd.stores.reader import ColumnReader

__all__ = ['Store']

Rows = NDArray[np.int64]


class Store:
    """A finished store of teacher outputs.

    Opening reads the manifest and compares sizes; each shard's checksum is verified when it is first read. Only the
    columns that are asked for are read. A store can be pickled, for worker processes: it is opened anew there.

    Args:
        folder: The folder of the store.

    Attributes:
        manifest: What it holds, and of what.
        format: The format of the logits; None if only features are stored.

    Raises:
        StoreError: If there is no store, it is unfinished, damaged, or of another version.

    Example:
        >>> import tempfile, torch
        >>> from composer_kd.stores import Manifest, StoreWriter, TopK
        >>> manifest = Manifest(samples=4, views=1, classes=10, positions='samples', shard_samples=4,
        ...                     format=TopK(k=3, temperature=4.0).settings())
        >>> with StoreWriter(tempfile.mkdtemp(), manifest) as writer:
        ...     writer.add(logits=torch.randn(4, 10), digests=np.zeros(4, np.uint16))
        ...     store = writer.finish()
        >>> store.logits(view=0, samples=torch.tensor([2, 2, 1])).shape
        torch.Size([3, 10])
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = pathlib.Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        try:
            self.format: Format | None = None if self.manifest.format is None else format_from(self.manifest.format)
            columns = columns_of(self.manifest)
            check_shards(self.manifest, columns)
        except StoreError as error:
            raise StoreError(f'{self.folder}: {error}') from error
        self._readers = {name: ColumnReader(self.folder, self.manifest, one) for name, one in columns.items()}

    def __reduce__(self) -> tuple[type[Store], tuple[pathlib.Path]]:
        return Store, (self.folder,)

    def __repr__(self) -> str:
        of = self.manifest
        return f'Store({str(self.folder)!r}, samples={of.samples}, views={of.views}, format={self.format})'

    @property
    def nbytes(self) -> int:
        """The bytes of all records."""
        return sum(shard.nbytes for shard in self.manifest.shards)

    def check(self, expected: Mapping[str, Any]) -> None:
        """Compares the manifest with what a run expects; see :meth:`Manifest.check`.

        Raises:
            StoreError: If any differs.
        """
        self.manifest.check(expected, str(self.folder))

    def verify(self) -> None:
        """Verifies the checksums of all shards now.

        Raises:
            StoreError: If a shard is damaged.
        """
        for reader in self._readers.values():
            reader.verify(np.arange(self.manifest.shard_count))

    def logits(self, view: int | Rows, samples: Rows | Tensor) -> Stored:
        """Reads what the teacher said of samples.

        Args:
            view: The view, or one for each sample.
            samples: ``(n,)`` The numbers of the samples, int64; they may repeat.

        Returns:
            ``(n, V)`` logits, or a sparse target of n positions; of token data, of the tokens of the first sample, then
            those of the second, and so on (:meth:`lengths`). On the CPU.

        Raises:
            StoreError: If there is no such view or sample, no logits are stored, or a shard is damaged.
        """
        if self.format is None:
            raise StoreError(f'{self.folder}: holds features alone ({self._paths}), no logits')
        reader, rows = self._readers[LOGITS], self._rows(view, samples)
        return self.format.decode(reader.take(self._positions(rows, reader)), self.manifest.classes)

    def features(self, path: str, view: int | Rows, samples: Rows | Tensor) -> Tensor:
        """Reads the features of a layer.

        Args:
            path: The layer.
            view: The view, or one for each sample.
            samples: ``(n,)`` The numbers of the samples, int64; they may repeat.

        Returns:
            ``(n, *shape)``, or ``(tokens, *shape)`` for features of each token, those of the first sample first
            (:meth:`lengths`); in the stored dtype, on the CPU.

        Raises:
            StoreError: If there is no such view, sample or layer, or a shard is damaged.
        """
        if path not in self.manifest.features:
            raise StoreError(
                f'{self.folder}: no features of {path!r} are stored{nearest(path, self.manifest.features)}'
            )
        feature, reader = self.manifest.features[path], self._readers[f'features:{path}']
        records = reader.take(self._positions(self._rows(view, samples), reader))
        return from_bytes(records, feature.dtype, feature.shape)

    def digests(self, view: int | Rows, samples: Rows | Tensor) -> NDArray[np.uint16]:
        """Reads the digests of samples' inputs: ``(n,)``.

        Raises:
            StoreError: If there is no such view or sample, or a shard is damaged.
        """
        return self._readers[DIGESTS].take(self._rows(view, samples)).view('<u2')[:, 0]

    def lengths(self, view: int | Rows, samples: Rows | Tensor, path: str | None = None) -> NDArray[np.int64]:
        """Reads the numbers of positions of samples: ``(n,)``; 1 each, unless positions are tokens.

        Args:
            view: The view, or one for each sample.
            samples: ``(n,)`` The numbers of the samples, int64; they may repeat.
            path: A layer with features of each token, for the number of these.

        Raises:
            StoreError: If there is no such view or sample, or a shard is damaged.
        """
        rows, name = self._rows(view, samples), SPANS if path is None else spans_of(path)
        if name not in self._readers:
            return np.ones(len(rows), np.int64)
        starts, ends = self._spans(rows, name)
        return ends - starts

    @property
    def _paths(self) -> str:
        return ', '.join(self.manifest.features)

    def _rows(self, view: int | Rows, samples: Rows | Tensor) -> Rows:
        numbers, views = _numbers('samples', samples), _numbers('view', view)
        if numbers.ndim != 1 or (views.ndim and views.shape != numbers.shape):
            raise StoreError(f'expected samples (n,) and one view or (n,), got {numbers.shape} and {views.shape}')
        for what, values, count in (('samples', numbers, self.manifest.samples), ('views', views, self.manifest.views)):
            # As unsigned numbers negative ones are large.
            if values.size and values.view(np.uint64).max() >= count:
                raise StoreError(
                    f'{self.folder}: holds {count} {what}, from 0 to {count - 1}; asked for '
                    f'{values.min()} to {values.max()}. It may be of another data set'
                )
        return views * self.manifest.samples + numbers

    def _positions(self, rows: Rows, reader: ColumnReader) -> Rows:
        """The records of rows in a column."""
        if reader.column.spans is None:
            return rows
        starts, ends = self._spans(rows, reader.column.spans)
        lengths = ends - starts
        before = lengths.cumsum() - lengths
        return np.repeat(starts - before, lengths) + np.arange(lengths.sum())

    def _spans(self, rows: Rows, name: str) -> tuple[Rows, Rows]:
        """Where the tokens of rows begin and end, in the whole store, by a column of spans."""
        spans, shards = self._readers[name].take(rows).view('<i8'), self._shard_ends[name]
        number = rows // self.manifest.shard_samples
        spans = spans + np.where(number > 0, shards[number - 1], 0)[:, None]
        starts, ends = spans[:, 0], spans[:, 1]
        if (starts < 0).any() or (ends < starts).any() or (ends > shards[-1]).any():
            raise StoreError(f'{self.folder}: spans of samples lie outside the store; build it anew')
        return starts, ends

    @cached_property
    def _shard_ends(self) -> dict[str, Rows]:
        """The number of records up to the end of each shard, by the column of their spans."""
        of = {reader.column.spans: reader.column for reader in self._readers.values()}
        return {
            spans: np.array([column.records(shard) for shard in self.manifest.shards], np.int64).cumsum()
            for spans, column in of.items()
            if spans is not None
        }


def _numbers(what: str, values: Any) -> Rows:
    numbers = np.asarray(values)
    if numbers.dtype != np.int64:
        if numbers.size and numbers.dtype.kind not in 'iu':
            raise StoreError(f'{what}: expected whole numbers, got {numbers.dtype}')
        numbers = numbers.astype(np.int64)
    return numbers
