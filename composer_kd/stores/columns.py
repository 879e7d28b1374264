"""The columns of a store: one file of records of one size for each thing that is stored, in the order of the rows."""

from __future__ import annotations

from dataclasses import dataclass

from composer_kd.errors import StoreError
from composer_kd.stores.formats import format_from
from composer_kd.stores.manifest import Manifest
from composer_kd.stores.parts import Shard

__all__ = ['DIGESTS', 'LOGITS', 'SPANS', 'Column', 'check_shards', 'columns_of', 'default_shard_samples', 'sizes_in']

DIGESTS, SPANS, LOGITS = 'digests', 'spans', 'logits'
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
        per_sample: Whether there is one record a sample, or one a position.
    """

    name: str
    file: str
    nbytes: int
    per_sample: bool

    def records(self, shard: Shard) -> int:
        """The number of records in a shard."""
        return shard.rows if self.per_sample else shard.positions


def columns_of(manifest: Manifest) -> dict[str, Column]:
    """The columns of a store, by name, in their order in a shard.

    Features of the layer ``path`` are the column ``features:path``; their files are numbered, as a layer path is no
    file name; the order is that of the paths.

    Example:
        >>> manifest = Manifest(10, 1, 3, 'tokens', 10, format={'kind': 'dense'})
        >>> [(column.file, column.nbytes, column.per_sample) for column in columns_of(manifest).values()]
        [('digests.bin', 2, True), ('spans.bin', 16, True), ('logits.bin', 6, False)]
    """
    one_a_sample = manifest.positions == 'samples'
    columns = [Column(DIGESTS, 'digests.bin', _DIGEST_BYTES, True)]
    if not one_a_sample:
        columns.append(Column(SPANS, 'spans.bin', _SPAN_BYTES, True))
    if manifest.format is not None:
        nbytes = format_from(manifest.format).nbytes(manifest.classes)
        columns.append(Column(LOGITS, 'logits.bin', nbytes, one_a_sample))
    for number, (path, feature) in enumerate(sorted(manifest.features.items())):
        per_sample = one_a_sample or feature.per == 'sample'
        columns.append(Column(f'features:{path}', f'features-{number:03d}.bin', feature.nbytes, per_sample))
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
    tokens = 1 if manifest.positions == 'samples' else _TYPICAL_TOKENS
    columns = columns_of(manifest).values()
    nbytes = sum(column.nbytes * (1 if column.per_sample else tokens) for column in columns)
    samples = max(1, min(_SHARD_BYTES // nbytes, max(_FEWEST_SAMPLES, -(-manifest.rows // _SHARDS))))
    return -(-samples // batch_size) * batch_size
