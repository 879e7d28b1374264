"""The columns of a store: one file of records of one size for each thing that is stored, in the order of the rows."""

from __future__ import annotations

from dataclasses import dataclass

from composer_kd.errors import StoreError
from composer_kd.stores.formats import format_from
from composer_kd.stores.manifest import Manifest
from composer_kd.stores.parts import Shard

__all__ = [
    'DIGESTS',
    'LOGITS',
    'SPANS',
    'Column',
    'check_shards',
    'columns_of',
    'default_shard_samples',
    'sizes_in',
    'spans_of',
]

DIGESTS, SPANS, LOGITS = 'digests', 'spans', 'logits'
_OF_LAYER = 'spans:'
_DIGEST_BYTES = 2
_SPAN_BYTES = 16  # start and end of a sample's tokens in its shard, int64
_SHARD_BYTES = 2**24
_SHARDS = 64  # wanted at least, so that little is lost in a kill
_FEWEST_SAMPLES = 64
_TYPICAL_TOKENS = 512  # of a sample


@dataclass(frozen=True)
class Column:
    """Records of one size, in one file.

    Attributes:
        name: Its name in messages and checksums.
        file: The name of its file.
        nbytes: The bytes of a record.
        spans: The column that says which records are those of a sample; None if there is one record a sample.
    """

    name: str
    file: str
    nbytes: int
    spans: str | None = None

    def records(self, shard: Shard) -> int:
        """The number of records in a shard."""
        if self.spans is None:
            return shard.rows
        return shard.positions if self.spans == SPANS else shard.tokens.get(self.spans.removeprefix(_OF_LAYER), 0)


def spans_of(path: str) -> str:
    """The column that says which tokens of a layer are those of a sample."""
    return f'{_OF_LAYER}{path}'


def columns_of(manifest: Manifest) -> dict[str, Column]:
    """The columns of a store, by name, in their order in a shard.

    Features of the layer ``path`` are the column ``features:path``; their files are numbered, as a layer path is no
    file name; the order is that of the paths.

    Example:
        >>> manifest = Manifest(10, 1, 3, 'tokens', 10, format={'kind': 'dense'})
        >>> [(column.file, column.nbytes, column.spans) for column in columns_of(manifest).values()]
        [('digests.bin', 2, None), ('spans.bin', 16, None), ('logits.bin', 6, 'spans')]
    """
    spans = None if manifest.positions == 'samples' else SPANS
    columns = [Column(DIGESTS, 'digests.bin', _DIGEST_BYTES)]
    if spans is not None:
        columns.append(Column(SPANS, 'spans.bin', _SPAN_BYTES))
    if manifest.format is not None:
        nbytes = format_from(manifest.format).nbytes(manifest.classes)
        columns.append(Column(LOGITS, 'logits.bin', nbytes, spans))
    for number, (path, feature) in enumerate(sorted(manifest.features.items())):
        if feature.per == 'token':
            columns.append(Column(spans_of(path), f'spans-{number:03d}.bin', _SPAN_BYTES))
        own = {'sample': None, 'position': spans, 'token': spans_of(path)}[feature.per]
        columns.append(Column(f'features:{path}', f'features-{number:03d}.bin', feature.nbytes, own))
    return {column.name: column for column in columns}


def sizes_in(shard: Shard, columns: dict[str, Column]) -> dict[str, int]:
    """The bytes of each column in a shard.

    Raises:
        StoreError: If the shard has other columns, or another number of bytes in all.
    """
    sizes = {name: column.records(shard) * column.nbytes for name, column in columns.items()}
    if set(shard.checksums) != set(columns) or sum(sizes.values()) != shard.nbytes:
        raise StoreError(
            f'a shard has {shard.nbytes} bytes in the columns {sorted(shard.checksums)}; '
            f'expected {sum(sizes.values())} in {sorted(columns)}'
        )
    return sizes


def check_shards(manifest: Manifest, columns: dict[str, Column]) -> None:
    """Checks that the shards of a finished store are those that its other settings say.

    Raises:
        StoreError: If they are others.
    """
    if len(manifest.shards) != manifest.shard_count:
        raise StoreError(f'expected {manifest.shard_count} shards, got {len(manifest.shards)}')
    for number, shard in enumerate(manifest.shards):
        sizes_in(shard, columns)
        rows = len(manifest.shard_rows(number))
        if shard.rows != rows or (manifest.positions == 'samples' and shard.positions != rows):
            raise StoreError(f'expected {rows} samples in shard {number}, got {shard.rows}')


def default_shard_samples(manifest: Manifest, batch_size: int = 1) -> int:
    """The samples of a shard: 16 MiB, or less for 64 shards in all; a kill costs at most one shard a rank.

    Args:
        manifest: What is to be stored; its ``shard_samples`` are not looked at.
        batch_size: The samples of a batch of the build, of which a shard has a whole number.

    Example:
        >>> manifest = Manifest(50_000, 10, 100, 'samples', 1, format={'kind': 'dense'})
        >>> default_shard_samples(manifest), default_shard_samples(manifest, batch_size=128)
        (7813, 7936)
    """
    columns = columns_of(manifest).values()
    nbytes = sum(column.nbytes * (1 if column.spans is None else _TYPICAL_TOKENS) for column in columns)
    samples = max(1, min(_SHARD_BYTES // nbytes, max(_FEWEST_SAMPLES, -(-manifest.rows // _SHARDS))))
    return -(-samples // batch_size) * batch_size
