"""Reading a store: memory-mapped, by view and sample."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.errors import StoreError, nearest
from composer_kd.stores.columns import DIGESTS, LOGITS, Column, columns_of
from composer_kd.stores.formats import Format, Stored, format_from
from composer_kd.stores.formats.floats import from_bytes
from composer_kd.stores.manifest import Manifest, read_manifest
from composer_kd.stores.mapped_records import MappedRecords
from composer_kd.stores.mds import MDSRecords, fetched, is_remote
from composer_kd.stores.source import RecordSource

__all__ = ['Store']

Rows = NDArray[np.int64]


class Store:
    """A finished store of teacher outputs.

    Opening reads the manifest and compares sizes; each shard's checksum is verified when it is first read. Only the
    columns that are asked for are read. A store can be pickled, for worker processes: it is opened anew there.

    Args:
        folder: The folder of the store; of a store in MDS (:func:`.to_mds`) also its address in an object store.
        local: Where what is fetched of a store in MDS is kept, one folder below for each store; None for a folder among
            temporary files. With it, ``folder`` may be a plain one too, such as one of a network.

    Attributes:
        folder: The local folder.
        manifest: What it holds, and of what.
        format: The format of the logits; None if only features are stored.
        records: Where its records come from.

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

    def __init__(self, folder: str | os.PathLike[str], local: str | os.PathLike[str] | None = None) -> None:
        self._asked = os.fspath(folder), None if local is None else os.fspath(local)
        remote = os.fspath(folder) if local is not None or is_remote(folder) else None
        self.folder = pathlib.Path(folder) if remote is None else fetched(remote, local)
        self.manifest: Manifest = read_manifest(self.folder)
        try:
            self.format: Format | None = None if self.manifest.format is None else format_from(self.manifest.format)
            columns = columns_of(self.manifest)
            self.records = self._source(columns, remote)
        except StoreError as error:
            if str(self.folder) in str(error):
                raise
            raise StoreError(f'{self.folder}: {error}') from error

    def _source(self, columns: Mapping[str, Column], remote: str | None) -> RecordSource:
        if self.manifest.index is None:
            return MappedRecords(self.folder, self.manifest, columns)
        return MDSRecords(self.folder, self.manifest, columns, remote)

    def __reduce__(self) -> tuple[type[Store], tuple[str, str | None]]:
        return Store, self._asked

    def __repr__(self) -> str:
        of = self.manifest
        return f'Store({str(self.folder)!r}, samples={of.samples}, views={of.views}, format={self.format})'

    @property
    def nbytes(self) -> int:
        """The bytes of all records."""
        return self.records.nbytes

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
        self.records.verify()

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
        return self.format.decode(self.records.take(LOGITS, self._rows(view, samples)), self.manifest.classes)

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
        feature = self.manifest.features[path]
        records = self.records.take(f'features:{path}', self._rows(view, samples))
        return from_bytes(records, feature.dtype, feature.shape)

    def digests(self, view: int | Rows, samples: Rows | Tensor) -> NDArray[np.uint16]:
        """Reads the digests of samples' inputs: ``(n,)``.

        Raises:
            StoreError: If there is no such view or sample, or a shard is damaged.
        """
        return self.records.take(DIGESTS, self._rows(view, samples)).view('<u2')[:, 0]

    def lengths(self, view: int | Rows, samples: Rows | Tensor, path: str | None = None) -> NDArray[np.int64]:
        """Reads the numbers of positions of samples: ``(n,)``; 1 each, unless positions are tokens.

        Args:
            view: The view, or one for each sample.
            samples: ``(n,)`` The numbers of the samples, int64; they may repeat.
            path: A layer with features of each token, for the number of these.

        Raises:
            StoreError: If there is no such view or sample, or a shard is damaged.
        """
        return self.records.lengths(LOGITS if path is None else f'features:{path}', self._rows(view, samples))

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


def _numbers(what: str, values: Any) -> Rows:
    numbers = np.asarray(values)
    if numbers.dtype != np.int64:
        if numbers.size and numbers.dtype.kind not in 'iu':
            raise StoreError(f'{what}: expected whole numbers, got {numbers.dtype}')
        numbers = numbers.astype(np.int64)
    return numbers
