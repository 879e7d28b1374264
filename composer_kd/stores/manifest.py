"""What a store holds, and of what: ``manifest.json``."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from composer_kd.errors import StoreError
from composer_kd.stores.files import checksum, own_file, read_json, write_durably
from composer_kd.stores.parts import Feature, Shard, checked_int, is_checksum

__all__ = ['MANIFEST_FILE', 'UNFINISHED_FILE', 'Manifest', 'read_manifest', 'write_manifest']

MANIFEST_FILE = 'manifest.json'
UNFINISHED_FILE = 'unfinished.json'  # the manifest while the store is built
VERSION = 1
POSITIONS = ('samples', 'tokens')
_SECTIONS = ('data', 'teacher', 'labels', 'transform', 'versions')


@dataclass(frozen=True)
class Manifest:
    """What a store holds, and of what. It names no files: their names follow from what it holds.

    Sections are mappings of plain values (numbers, strings, booleans, None, and lists and mappings of these).

    Attributes:
        samples: The number of samples of the data set, N.
        views: The number of passes over the data set, each with other random transforms, E.
        classes: The number of classes, V.
        positions: ``'samples'`` for one record a sample, ``'tokens'`` for one a token.
        shard_samples: The samples of a shard, which is what a rank writes at once and what has a checksum.
        format: The settings of the format of the logits; None if only features are stored.
        features: The stored features by layer path.
        data: The data set: name, length, fingerprint.
        teacher: The teacher: class, fingerprint of its weights.
        labels: The label space or tokenizer.
        transform: The transform and its seed.
        versions: Versions of the packages that built the store.
        version: Of this layout.
        shards: The shards; none while the store is built.
        index: The checksum of the index of shards, of a store in MDS; None for memory-mapped columns.

    Raises:
        StoreError: If a value is out of bounds or of another type.

    Example:
        >>> manifest = Manifest(samples=100, views=2, classes=10, positions='samples', shard_samples=64,
        ...                     format={'kind': 'dense', 'dtype': 'float16'}, data={'name': 'digits', 'length': 100})
        >>> manifest.rows, manifest.shard_rows(3)
        (200, range(192, 200))
        >>> manifest.check({'samples': 100, 'data': {'name': 'digits'}})
    """

    samples: int
    views: int
    classes: int
    positions: str
    shard_samples: int
    format: Mapping[str, Any] | None = None
    features: Mapping[str, Feature] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    teacher: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    transform: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION
    shards: tuple[Shard, ...] = ()
    index: str | None = None

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise StoreError(f'version: this composer_kd reads stores of version {VERSION}, this is {self.version!r}')
        for name, most in (('samples', 2**39), ('views', 2**20), ('classes', 2**31), ('shard_samples', 2**39)):
            checked_int(name, getattr(self, name), 1, most)
        checked_int('samples * views', self.rows, 1, 2**39)  # 24 bits are left for the tokens of a sample
        if self.positions not in POSITIONS:
            raise StoreError(f'positions: expected one of {POSITIONS}, got {self.positions!r}')
        for name in _SECTIONS:
            object.__setattr__(self, name, _plain(name, getattr(self, name)))
        object.__setattr__(self, 'format', None if self.format is None else _plain('format', self.format))
        object.__setattr__(self, 'shards', tuple(self.shards))
        if self.index is not None and not is_checksum(self.index):
            raise StoreError(f'index: expected eight hexadecimal digits, got {self.index!r}')
        if self.shards and len(self.shards) != self.shard_count:
            raise StoreError(f'shards: expected {self.shard_count}, got {len(self.shards)}')

    @property
    def rows(self) -> int:
        """The number of samples of all views; row ``view * samples + sample`` is a sample in a view."""
        return self.samples * self.views

    @property
    def shard_count(self) -> int:
        """The number of shards."""
        return -(-self.rows // self.shard_samples)

    def shard_rows(self, number: int) -> range:
        """The rows of a shard."""
        start = number * self.shard_samples
        return range(start, min(start + self.shard_samples, self.rows))

    def check(self, expected: Mapping[str, Any], where: str = 'the store') -> None:
        """Compares with what a run expects.

        Args:
            expected: Attributes of a manifest and their values; of mappings, the keys that matter.
            where: Names the store in the error.

        Raises:
            StoreError: If any differs: all that do, with what the store and the run say.

        Example:
            >>> manifest = Manifest(10, 1, 3, 'samples', 10, data={'name': 'digits', 'length': 10})
            >>> manifest.check({'classes': 4, 'data': {'name': 'digits', 'length': 12}})
            Traceback (most recent call last):
            composer_kd.errors.StoreError: the store is not of this run:
              classes: the store says 3, the run 4
              data.length: the store says 10, the run 12
            Take the store that was built of this run's data and teacher, or build one.
        """
        found = list(_differences('', json.loads(_dumped('expected', expected)), self.to_mapping()))
        if found:
            lines = '\n'.join(f'  {path}: the store says {theirs}, the run {ours}' for path, theirs, ours in found)
            raise StoreError(
                f'{where} is not of this run:\n{lines}\n'
                "Take the store that was built of this run's data and teacher, or build one."
            )

    def to_mapping(self) -> dict[str, Any]:
        """The manifest as plain values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_mapping(cls, values: Any) -> Manifest:
        """Makes a manifest of plain values.

        Raises:
            StoreError: If a key is missing or unknown, or a value is wrong.
        """
        known = {one.name: one for one in dataclasses.fields(cls)}
        if not isinstance(values, Mapping):
            raise StoreError(f'expected a mapping, got {type(values).__name__}')
        if unknown := sorted(set(values) - set(known)):
            raise StoreError(f'unknown keys {unknown}: the store is of another version of composer_kd, or was changed')
        try:
            features = {path: Feature(**one) for path, one in dict(values.get('features', {})).items()}
            shards = tuple(Shard(**one) for one in values.get('shards', ()))
            return cls(**{**values, 'features': features, 'shards': shards})
        except TypeError as error:
            raise StoreError(str(error)) from error


def write_manifest(file: pathlib.Path, manifest: Manifest) -> None:
    """Writes a manifest with its own checksum, durably."""
    content = manifest.to_mapping()
    text = json.dumps({'checksum': _checksum_of(content), 'manifest': content}, indent=1, sort_keys=True)
    write_durably(file, text.encode())


def read_manifest(folder: pathlib.Path, name: str = MANIFEST_FILE) -> Manifest:
    """Reads the manifest of a store.

    Raises:
        StoreError: If it is missing, unfinished, damaged or of another version.
    """
    if name == MANIFEST_FILE and not (folder / name).exists():
        if (folder / UNFINISHED_FILE).exists():
            raise StoreError(
                f'{folder}: the store is unfinished. Finish it: run the command that built it again, with --resume'
            )
        raise StoreError(f'{folder} holds no store (no {name}). Build one with composer-kd cache')
    content = read_json(own_file(folder, name))
    try:
        if not isinstance(content, dict) or set(content) != {'checksum', 'manifest'}:
            raise StoreError("expected the keys 'checksum' and 'manifest'")
        if content['checksum'] != _checksum_of(content['manifest']):
            raise StoreError('its checksum differs: it was changed, or is damaged')
        return Manifest.from_mapping(content['manifest'])
    except StoreError as error:
        raise StoreError(f'{folder / name}: {error}') from error


def _checksum_of(content: Any) -> str:
    return checksum(json.dumps(content, sort_keys=True).encode())


def _plain(name: str, section: Any) -> dict[str, Any]:
    """A section as it comes back from JSON: a tuple is a list there."""
    if not isinstance(section, Mapping):
        raise StoreError(f'{name}: expected a mapping, got {type(section).__name__}')
    return json.loads(_dumped(name, section))


def _dumped(name: str, value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, default=_as_mapping)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f'{name}: expected plain values, as in JSON: {error}') from error


def _as_mapping(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f'{type(value).__name__} is none')


def _differences(path: str, ours: Any, theirs: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            here = f'{path}.{key}' if path else key
            if key in theirs:
                yield from _differences(here, value, theirs[key])
            else:
                yield here, 'nothing', _short(value)
    elif type(ours) is not type(theirs) or ours != theirs:
        yield path, _short(theirs), _short(ours)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f'{text[:197]}...'
