"""Reads a YAML file as it stands, and refuses what is no configuration before anything expands it."""

from __future__ import annotations

import pathlib
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from composer_kd.config.shipped import located
from composer_kd.errors import ConfigError, nearest

__all__ = ['MOST_LEVELS', 'NOT_YAML', 'load_yaml', 'read_mapping', 'require_file', 'with_names']

MOST_LEVELS = 40  # of mappings and lists in each other
MOST_VALUES = 100_000
MOST_BITS = 2000  # of a number; Python cannot print much longer ones
MOST_BYTES = 10_000_000

# What YAML and OmegaConf raise for a file that is wrong: ValueError for numbers and dates, RecursionError for depth.
NOT_YAML = (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError, TypeError, AttributeError)


def require_file(path: str | pathlib.Path) -> None:
    """Checks that a YAML file exists; fast, because it does not import torch.

    Args:
        path: The path of the file, or ``@`` and the name of a YAML of the package.

    Raises:
        ConfigError: If the file does not exist; lists the nearest files.
    """
    path = located(path)
    try:
        if path.is_dir():
            raise ConfigError(f'{str(path)!r} is a folder: expected a YAML file{_nearest_files(path / "*")}')
        if path.exists() and not path.is_file():  # a FIFO would be waited for, a device never ends
            raise ConfigError(f'{str(path)!r} is no regular file: expected a YAML file')
        if not path.is_file():
            raise ConfigError(f'no configuration file {str(path)!r}{_nearest_files(path)}')
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f'no configuration file {str(path)[:200]!r}: {error}') from error


def read_mapping(path: pathlib.Path) -> dict[str, Any]:
    """Reads the keys of a configuration as they stand, without interpolations.

    Args:
        path: The file.

    Raises:
        ConfigError: If it does not exist, is no YAML, empty or no mapping, larger than any configuration, or nested too
            deeply.
    """
    require_file(path)
    try:
        written = load_yaml(path)
        if not written:
            raise ConfigError(f'{path} is empty: expected keys such as model, optimizer, train_loader')
        if not isinstance(written, dict):
            raise ConfigError(f'{path}: expected keys such as model, optimizer, train_loader; got {written!r}')
        content = cast('dict[Any, Any]', OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    except NOT_YAML as error:
        raise ConfigError(f'{path} is not valid YAML: {error or type(error).__name__}') from error
    return with_names(content)


def load_yaml(path: pathlib.Path) -> Any:
    """Reads a YAML file as it stands, without interpolations.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        ConfigError: If it is no YAML, larger than any configuration, or nested too deeply.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f'{path} is no configuration: it has {path.stat().st_size:,} bytes')
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
        _measure(content, path)
        return content
    except NOT_YAML as error:
        raise ConfigError(f'{path} is not valid YAML: {error or type(error).__name__}') from error


def _measure(content: Any, path: pathlib.Path) -> None:
    """Refuses content that is nested too deeply, or that aliases would blow up, before anything expands it."""
    level, seen = [content], 0
    for _ in range(MOST_LEVELS):
        level = [one for node in level for one in _inside(node)]
        strange = next((one for one in level if isinstance(one, bytes | set | tuple)), None)
        if strange is not None:
            raise ConfigError(f'{path} is no configuration: it holds {type(strange).__name__}, {strange!r:.80}')
        if any(isinstance(one, int) and one.bit_length() > MOST_BITS for one in level):
            raise ConfigError(f'{path} is no configuration: it holds a number of more than {MOST_BITS} bits')
        seen += len(level)
        if not level:
            return
        if seen > MOST_VALUES:
            raise ConfigError(f'{path} is no configuration: it has more than {MOST_VALUES:,} values')
    raise ConfigError(f'{path} is no configuration: it is nested more than {MOST_LEVELS} levels deep')


def _inside(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def with_names(node: Any) -> Any:
    """Converts keys to strings: YAML 1.1 reads the key ``on`` of a match as ``True``.

    Example:
        >>> with_names({True: 'layer2', 3: None})
        {'on': 'layer2', '3': None}
    """
    if isinstance(node, dict):
        booleans: dict[Any, str] = {True: 'on', False: 'off'}
        names = [booleans[key] if isinstance(key, bool) else str(key) for key in node]
        return {name: with_names(value) for name, value in zip(names, node.values())}
    return [with_names(item) for item in node] if isinstance(node, list) else node


def _nearest_files(path: pathlib.Path) -> str:
    found = {file.as_posix() for file in (*path.parent.glob('*.yaml'), *pathlib.Path('yamls').glob('*/*.yaml'))}
    if not found:
        return f'; there are no .yaml files in {path.parent} either (looked from {pathlib.Path.cwd()})'
    return nearest(path.as_posix(), found)
