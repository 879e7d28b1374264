"""The content of a YAML file with the command line's overrides, and its interpolations ``${...}`` resolved."""

from __future__ import annotations

import copy
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from composer_kd.config.secrets import Secret, Secrets, concealed
from composer_kd.config.shipped import located
from composer_kd.config.yaml_file import MOST_LEVELS, NOT_YAML, read_mapping, with_names
from composer_kd.errors import ConfigError, nearest

__all__ = ['OF_STAGE', 'STAGES', 'UNRESOLVED', 'Source', 'compose', 'faults_said', 'read_settings', 'read_source']

STAGES = 'stages'
"""The key of a YAML of several runs."""

OF_STAGE = ('yaml', 'generations', 'ensemble')
"""Keys of a stage that are no settings of its run."""


class _Unresolved:
    """Placeholder for a value that could not be resolved, so that the rest can still be checked."""

    def __repr__(self) -> str:
        return '<unresolved>'


UNRESOLVED = _Unresolved()
_UNWRITABLE = re.compile('[\0\ud800-\udfff]')
MOST_WHOLE = 2**63  # larger numbers overflow in torch, in tables and in files


@dataclass
class Source:
    """The content of a YAML file before it is checked.

    Args:
        path: The file.
        data: Its content, with overrides applied and interpolations resolved.
        added: Dotted keys that overrides added to the file.
        faults: The faults found so far, one line each.
    """

    path: pathlib.Path
    data: dict[str, Any]
    added: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def read_source(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> Source:
    """Reads a YAML file and applies ``key.sub=value`` overrides.

    Args:
        path: The YAML file, or ``@`` and the name of a YAML of the package: ``@digits/kd``.
        overrides: As on the command line: ``'optimizer.lr=0.1'``, ``'teachers.0.name=big'``. The value is YAML and
            replaces the old value.

    Returns:
        The content and the faults found so far.

    Raises:
        ConfigError: If the file does not exist, is not a YAML mapping, or has stages. Faults in single keys are
            collected in the result.

    Example:
        >>> import tempfile, os
        >>> file = os.path.join(tempfile.mkdtemp(), 'run.yaml')
        >>> _ = open(file, 'w').write('optimizer: {lr: 0.1}')
        >>> read_source(file, ['optimizer.lr=1e-3']).data
        {'optimizer': {'lr': 0.001}}
    """
    path = located(path)
    content = read_mapping(path)
    if STAGES in content:
        raise ConfigError(
            f'{path} has stages ({", ".join(map(str, content[STAGES] or ()))}), each of which is a run of its own: '
            f'`composer-kd train {path}` trains them, and then the folder of a stage, or the config.yaml in it, stands '
            'for that run'
        )
    return compose(path, content, {}, overrides)


def compose(path: pathlib.Path, content: Any, settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> Source:
    """Puts settings and overrides into the content of a file.

    Args:
        path: The file.
        content: Its content, which stays as it is.
        settings: Values by dotted key, which replace those of the content before the interpolations are resolved.
        overrides: As in :func:`read_source`.

    Returns:
        The content and the faults found so far.

    Example:
        >>> compose(pathlib.Path('run.yaml'), {'seed': 1, 'optimizer': {'lr': 0.1}}, {'optimizer.lr': '${seed}'}).data
        {'seed': 1, 'optimizer': {'lr': 1}}
    """
    source = Source(path, copy.deepcopy(content))
    for key, value in settings.items():
        _put(source, key, value, key)
    source.added.clear()  # it stands in a file
    for override in overrides:
        _override(source, override)
    source.data = _resolved(source)
    return source


def read_settings(settings: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Reads ``key=value`` strings without a file.

    Args:
        settings: The strings, written like the overrides of a file.

    Returns:
        The settings, and the faults found in them, one line each.

    Example:
        >>> read_settings(['image_size=[8, 6]', 'dropout'])
        ({'image_size': [8, 6]}, ["'dropout': expected an override key.sub=value"])
    """
    source = Source(pathlib.Path(), {})
    for setting in settings:
        _override(source, setting)
    return _resolved(source), source.faults


def faults_said(path: pathlib.Path, faults: Sequence[str]) -> ConfigError:
    """The error for the faults of a YAML file."""
    count = '1 fault' if len(faults) == 1 else f'{len(faults)} faults'
    lines = '\n'.join(f'  {fault}' for fault in faults)
    return ConfigError(f'{path}: {count}; nothing was started\n{lines}')


def _override(source: Source, override: str) -> None:
    key, equals, text = override.partition('=')
    key = key.strip().lstrip('-')
    if not equals or not key:
        source.faults.append(f'{override!r}: expected an override key.sub=value')
        return
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f'value={text}']), resolve=False)['value']  # type: ignore
    except NOT_YAML as error:
        source.faults.append(f'{override!r}: the value is not valid YAML ({_first_line(error)})')
        return
    if not text.strip():
        source.faults.append(f'{override!r}: the value is empty; write {key}=null for none')
        return
    _put(source, key, with_names(value), override)


def _put(source: Source, key: str, value: Any, override: str) -> None:
    node: Any = source.data
    parts = key.split('.')
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        where = '.'.join(parts[:depth]) or 'the file'
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                source.faults.append(f'{override!r}: {where} is a list, got {part!r} for an index below {len(node)}')
                return
            index: Any = int(part)
            missing = False
        elif isinstance(node, dict):
            index = part
            missing = part not in node
        else:
            source.faults.append(f'{override!r}: {where} is {node!r}, not a mapping with keys')
            return
        if missing:
            source.added.add(key)
        if last:
            node[index] = value
        elif missing or node[index] is None:
            source.added.add(key)
            node[index] = {}
        node = node[index]


def _resolved(source: Source) -> dict[str, Any]:
    try:
        secrets = Secrets(source.data)
        resolved = _resolve(OmegaConf.create(source.data), source.data, '', source, secrets)
        source.faults = [secrets.without(fault) for fault in source.faults]
        return secrets.settled(resolved)
    except NOT_YAML as error:
        raise ConfigError(f'{source.path}: {_first_line(error)}') from error
    except ConfigError as error:
        raise ConfigError(f'{source.path}: {error}') from error


def _resolve(node: Any, written: Any, prefix: str, source: Source, secrets: Secrets) -> Any:
    """Returns plain values; ``written`` is the same content with its interpolations."""
    if isinstance(node, DictConfig):
        keys = list(node.keys())
        return {str(key): _value(node, key, written[key], prefix, source, secrets) for key in keys}
    if isinstance(node, ListConfig):
        items = [_value(node, i, written[i], prefix, source, secrets) for i in range(len(node))]
        return UNRESOLVED if any(item is UNRESOLVED for item in items) else items
    return node


def _value(node: DictConfig | ListConfig, key: Any, written: Any, prefix: str, source: Source, secrets: Secrets) -> Any:
    path = f'{prefix}{key}'
    if path.count('.') > 2 * MOST_LEVELS:
        source.faults.append(f'{path[:80]}...: is nested more than {2 * MOST_LEVELS} levels deep')
        return UNRESOLVED
    if OmegaConf.is_missing(node, key):
        source.faults.append(f"{path}: is '???', so it must be given: {path}=... on the command line or in the file")
        return UNRESOLVED
    try:
        value = node[key]
    except Exception as error:  # resolvers of the user's own may raise any error
        source.faults.append(f'{path}: {written!r} cannot be resolved: {_reason(error, source)}')
        return UNRESOLVED
    fault = _unusable(value)
    if fault is not None:
        source.faults.append(f'{path}: {fault}')
        return UNRESOLVED
    is_secret = isinstance(written, str) and secrets.reads(written)
    if isinstance(value, str):
        if not isinstance(written, str) or '${' not in written:
            return value
        secrets.note(value, written)
        return Secret(value, written)  # until all values are known
    if isinstance(written, str) and isinstance(value, (DictConfig, ListConfig)):  # it stands elsewhere in the file
        written = OmegaConf.to_container(value, resolve=False)
    resolved = _resolve(value, written, f'{path}.', source, secrets)
    return concealed(resolved) if is_secret and not isinstance(value, (int, float)) else resolved


def _unusable(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f'expected a finite number, got {value}'
    if isinstance(value, int) and abs(value) >= MOST_WHOLE:
        return 'expected a whole number below 2**63'
    if isinstance(value, str) and _UNWRITABLE.search(value):
        return 'expected text without NUL characters and lone surrogates'
    return None


def _reason(error: Exception, source: Source) -> str:
    missing = re.search(r"'([^']+)' not found", str(error))
    if not isinstance(error, InterpolationKeyError) or missing is None:
        return _first_line(error)
    return f'there is no {missing[1]!r}{nearest(missing[1], set(_leaves(source.data)) - source.added)}'


def _leaves(node: Any, prefix: str = '') -> Iterator[str]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield f'{prefix}{key}'
        if isinstance(value, (dict, list)):
            yield from _leaves(value, f'{prefix}{key}.')


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
