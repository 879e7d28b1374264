"""What a teacher said of a whole data set, on disk: formats of records, shards, and the manifest that says of what."""

from composer_kd.stores.columns import default_shard_samples
from composer_kd.stores.formats import Dense, Format, FormatError, Hidden, Sampled, TopK, error, format_from
from composer_kd.stores.manifest import MANIFEST_FILE, Manifest
from composer_kd.stores.mds_writing import check_free, to_mds
from composer_kd.stores.parts import Feature, Shard
from composer_kd.stores.recode import recode
from composer_kd.stores.store import Store
from composer_kd.stores.writer import StoreWriter

__all__ = [
    'MANIFEST_FILE',
    'Dense',
    'Feature',
    'Format',
    'FormatError',
    'Hidden',
    'Manifest',
    'Sampled',
    'Shard',
    'Store',
    'StoreWriter',
    'TopK',
    'check_free',
    'default_shard_samples',
    'error',
    'format_from',
    'to_mds',
    'recode',
]
