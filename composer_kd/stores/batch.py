"""From what a teacher said of a batch to records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.errors import StoreError
from composer_kd.stores.columns import DIGESTS, LOGITS, SPANS, spans_of
from composer_kd.stores.formats import Records, format_from
from composer_kd.stores.formats.floats import to_bytes
from composer_kd.stores.manifest import Manifest

__all__ = ['BatchRecords', 'spans_records']

_POSITION_BITS = 24  # of the number that a position has in the store


class BatchRecords:
    """Checks the outputs for a batch of rows, and makes records of them.

    Args:
        manifest: What is stored.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._format = None if manifest.format is None else format_from(manifest.format)

    def of(
        self,
        rows: NDArray[np.int64],
        logits: Tensor | None,
        features: Mapping[str, Tensor],
        digests: NDArray[Any],
        lengths: NDArray[np.int64] | Tensor | None,
        tokens: Mapping[str, NDArray[np.int64] | Tensor],
    ) -> tuple[dict[str, Records], dict[str, NDArray[np.int64]]]:
        """The records of a batch by column, without spans, and the number of each row's records by column of spans.

        Raises:
            StoreError: If something is missing, of another size, or cannot be stored.
        """
        counts = self._lengths(len(rows), lengths)
        spans = self._tokens(len(rows), tokens)
        totals = {'sample': len(rows), 'position': int(counts.sum())}
        records = {DIGESTS: _digest_records(digests), **self._features(features, totals, spans)}
        if (self._format is None) != (logits is None):
            stored = 'no logits' if self._format is None else f'logits as {self._format}'
            raise StoreError(f'the manifest says {stored}, got {"none" if logits is None else "logits"}')
        if self._format is not None and logits is not None:
            records[LOGITS] = self._logits(rows, counts, logits)
        return records, spans if self._manifest.positions == 'samples' else {SPANS: counts, **spans}

    def _logits(self, rows: NDArray[np.int64], counts: NDArray[np.int64], logits: Tensor) -> Records:
        assert self._format is not None
        nbytes = self._format.nbytes(self._manifest.classes)
        _same_length('logits', logits, int(counts.sum()))
        records = self._format.encode(logits, self._numbers(rows, counts))
        if records.shape[1] != nbytes:
            raise StoreError(f'logits: expected {self._manifest.classes} classes, got {tuple(logits.shape)}')
        return records

    def _numbers(self, rows: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number of each position, from the row and the place in it, so that it is its own in the store."""
        if self._manifest.positions == 'samples':
            return rows
        places = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        return (np.repeat(rows, counts) << _POSITION_BITS) | places

    def _features(
        self, features: Mapping[str, Tensor], totals: Mapping[str, int], spans: Mapping[str, NDArray[np.int64]]
    ) -> dict[str, Records]:
        if set(features) != set(self._manifest.features):
            raise StoreError(f'features: expected those of {list(self._manifest.features)}, got {list(features)}')
        records = {}
        for path, feature in self._manifest.features.items():
            tensor = features[path]
            own = spans.get(spans_of(path))
            _same_length(f'features of {path}', tensor, totals[feature.per] if own is None else int(own.sum()))
            if tuple(tensor.shape[1:]) != feature.shape:
                raise StoreError(f'features of {path}: expected (n, *{feature.shape}), got {tuple(tensor.shape)}')
            records[f'features:{path}'] = to_bytes(f'features of {path}', tensor, feature.dtype)
        return records

    def _lengths(self, rows: int, lengths: NDArray[np.int64] | Tensor | None) -> NDArray[np.int64]:
        if self._manifest.positions == 'samples':
            if lengths is not None:
                raise StoreError('lengths: each sample has one position; expected none')
            return np.ones(rows, np.int64)
        return _checked_lengths('lengths', lengths, rows)

    def _tokens(self, rows: int, tokens: Mapping[str, NDArray[np.int64] | Tensor]) -> dict[str, NDArray[np.int64]]:
        paths = [path for path, feature in self._manifest.features.items() if feature.per == 'token']
        if set(tokens) != set(paths):
            raise StoreError(f'tokens: expected the lengths of {paths}, got those of {list(tokens)}')
        return {spans_of(path): _checked_lengths(f'tokens of {path}', tokens[path], rows) for path in paths}


def spans_records(lengths: NDArray[np.int64]) -> Records:
    """Where each row's records begin and end in the shard.

    Example:
        >>> spans_records(np.array([2, 0, 3])).view('<i8').tolist()
        [[0, 2], [2, 2], [2, 5]]
    """
    ends = lengths.cumsum()
    return np.stack([ends - lengths, ends], axis=1).astype('<i8').view(np.uint8)


def _checked_lengths(what: str, lengths: NDArray[np.int64] | Tensor | None, rows: int) -> NDArray[np.int64]:
    counts = np.asarray([] if lengths is None else lengths)
    if lengths is None or counts.shape != (rows,) or counts.dtype.kind not in 'iu':
        raise StoreError(f'{what}: expected {rows} numbers of tokens, got {counts.dtype} {counts.shape}')
    if rows and not 0 <= counts.min() <= counts.max() < 2**_POSITION_BITS:
        raise StoreError(f'{what}: expected 0 to {2**_POSITION_BITS - 1:,} tokens, got {counts.min()}, {counts.max()}')
    return counts.astype(np.int64)


def _digest_records(digests: NDArray[Any]) -> Records:
    if digests.dtype != np.uint16 or digests.ndim != 1:
        raise StoreError(f'digests: expected (rows,) of uint16, got {digests.dtype} {digests.shape}')
    return digests.astype('<u2')[:, None].view(np.uint8)


def _same_length(what: str, tensor: Tensor, count: int) -> None:
    if tensor.ndim == 0 or len(tensor) != count:
        raise StoreError(f'{what}: expected {count} positions, got {tuple(tensor.shape)}')
