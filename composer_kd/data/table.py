"""Rows of a table: of local files, or of a data set on the Hugging Face Hub."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from composer_kd.data.location import data_root, existing_file
from composer_kd.data.partly_labelled import check_count
from composer_kd.errors import ConfigError, nearest

__all__ = ['column_texts', 'read_table']

_CELLS: dict[str, Any] = {'keep_default_na': False, 'na_values': ['']}  # None, NA and null are texts; nothing is none
_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    '.jsonl': ('json', {}),
    '.json': ('json', {}),
    '.csv': ('csv', _CELLS),
    '.tsv': ('csv', {**_CELLS, 'sep': '\t', 'quoting': 3}),  # quotes are part of the texts
    '.parquet': ('parquet', {}),
}


def read_table(
    path: str | Path | Sequence[str | Path] | None,
    hub: str | None,
    split: str,
    root: Any = None,
    subset: int | None = None,
) -> Any:
    """Reads a table through ``datasets``; no code of the data set is run.

    Args:
        path: A file of JSON lines, CSV, TSV or Parquet, or several of one kind; those that do not exist are looked for
            below the root.
        hub: In its place: the name of a data set on the Hub, ``'owner/name'``, or ``'owner/name:configuration'``.
        split: Which of its splits, of the Hub.
        root: The folder of the data sets, as for :func:`.data_root`.
        subset: The number of rows to take, from the beginning; None for all.

    Returns:
        A ``datasets.Dataset``, with rows.

    Raises:
        ConfigError: If a file is missing or of another kind, the Hub cannot be reached, there are no rows, or fewer
            than ``subset``.

    Example:
        >>> read_table('pairs.txt', None, 'train')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: path: expected a file of .jsonl, .json, .csv, .tsv, .parquet, got 'pairs.txt'
    """
    rows = _read(path, hub, split, root)
    if len(rows) == 0:
        raise ConfigError(f'path: {path or hub} has no rows')
    if subset is None:
        return rows
    check_count('subset', subset, 1, len(rows))
    return rows.select(range(subset))


def _read(path: str | Path | Sequence[str | Path] | None, hub: str | None, split: str, root: Any) -> Any:
    if (path is None) == (hub is None):
        raise ConfigError('path: give files, or hub: the name of a data set on the Hugging Face Hub; one of the two')
    try:
        import datasets
    except ImportError as error:
        raise ConfigError("a table of texts needs the datasets library: pip install 'composer_kd[nlp]'") from error
    if hub is not None:
        name, _, configuration = hub.partition(':')
        return _loaded(datasets.load_dataset, f'hub: {hub!r}', name, configuration or None, split=split)
    files = [Path(one) for one in ([path] if isinstance(path, (str, Path)) else path or ())]
    kinds = {file.suffix for file in files}
    if len(kinds) != 1 or not kinds <= _READERS.keys():
        raise ConfigError(
            f'path: expected a file of {", ".join(_READERS)}, got {", ".join(repr(str(file)) for file in files)}'
        )
    kind, options = _READERS[kinds.pop()]
    found = [str(existing_file([file.expanduser(), data_root(root) / file])) for file in files]
    return _loaded(datasets.load_dataset, f'path: {", ".join(found)}', kind, data_files=found, split='train', **options)


def _loaded(load: Callable[..., Any], what: str, *where: Any, **options: Any) -> Any:
    try:
        return load(*where, **options)
    except Exception as error:  # the Hub, the network and the files may fail in many ways
        said = ' '.join(str(error).split())[:300]
        raise ConfigError(f'{what} cannot be read: {type(error).__name__}: {said}') from error


def column_texts(rows: Any, written: str, option: str) -> list[str]:
    """The texts of a column, or of several in a sentence.

    Args:
        rows: A ``datasets.Dataset``.
        written: The name of a column; or a text with names of columns in braces, ``'Translate: {english}'``.
        option: The option that says it, for messages.

    Returns:
        A text for each row.

    Raises:
        ConfigError: If there is no such column, or a row has something other than a text there.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({'en': ['a cat'], 'de': ['eine Katze']})
        >>> column_texts(rows, 'translate English to German: {en}', 'source')
        ['translate English to German: a cat']
    """
    parts = _parts(written, option) if '{' in written else [('', written)]
    names = list(dict.fromkeys(name for _, name in parts if name is not None))
    for name in names:
        if name not in rows.column_names:
            near = nearest(name, rows.column_names)
            raise ConfigError(f'{option}: there is no column {name!r}{near}; there are {list(rows.column_names)}')
        for number, value in enumerate(rows[name], 1):
            if not isinstance(value, str):
                raise ConfigError(f'{option}: row {number} has {value!r} in the column {name!r}; expected a text')
    return [_filled(parts, dict(zip(names, row))) for row in zip(*(rows[name] for name in names))]


def _parts(written: str, option: str) -> list[tuple[str, str | None]]:
    try:
        read = [(text, name) for text, name, *_ in string.Formatter().parse(written)]
    except ValueError as error:
        raise ConfigError(f'{option}: {written!r} is no text with names of columns in braces: {error}') from error
    if all(name is None for _, name in read):
        raise ConfigError(f'{option}: {written!r} names no column in its braces')
    return read


def _filled(parts: Sequence[tuple[str, str | None]], row: Mapping[str, str]) -> str:
    return ''.join(text + ('' if name is None else row[name]) for text, name in parts)
