"""Reads and checks a run's YAML file, or a part of it, and converts a configuration back to a mapping."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from composer_kd.config.check import check
from composer_kd.config.markers import Component
from composer_kd.config.registry import SCOPES
from composer_kd.config.schema import RunConfig
from composer_kd.config.secrets import addresses_with_secrets, hidden
from composer_kd.config.trust import packages_in, trusting
from composer_kd.config.yaml_source import read_source

__all__ = ['as_mapping', 'default_run_name', 'load_config', 'load_part']

T = TypeVar('T')
RECORD = 'config.yaml'  # as composer_kd.runs.files.CONFIG_FILE, which this room cannot import


def load_config(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads and checks a run's YAML file, without building anything.

    Args:
        path: The YAML file, or ``@`` and the name of a YAML of the package: ``@digits/kd``.
        overrides: ``key.sub=value`` strings, as on the command line.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If there are faults; lists all of them, each with its dotted key and the nearest valid names.

    Example:
        >>> load_config('yamls/digits/kd.yaml', ['seed=3']).seed
        3
    """
    source = read_source(path, overrides)
    if source.data.get('run_name') is None:
        source.data['run_name'] = default_run_name(source.path)
    if isinstance(source.data['run_name'], str):
        source.data['run_name'] = str(source.data['run_name'])  # a name is shown everywhere, whatever it was read from
    with trusting(packages_in(source.data.get('allow_imports')), _record(source.path)):
        return check(source, RunConfig)


def default_run_name(path: pathlib.Path) -> str:
    """The name of a run without ``run_name``: ``digits-kd`` for ``yamls/digits/kd.yaml``."""
    return f'{path.resolve().parent.name}-{path.stem}'


def _record(path: pathlib.Path) -> pathlib.Path | None:
    """The folder of a run, if a file is its record."""
    return path.parent if path.name == RECORD else None


def load_part(path: str | pathlib.Path, schema: type[T], believed: bool = True) -> T:
    """Reads and checks the keys of a run's YAML that a dataclass has, and ignores the other keys.

    Args:
        path: The YAML file.
        schema: The dataclass, such as ``EvaluationConfig``.
        believed: Whether its ``allow_imports`` counts: false for the record of a saved run, which somebody else may
            have sent; what it names from other packages is then refused unless ``trusting(...)`` allows these.

    Returns:
        The checked part of the configuration.

    Raises:
        ConfigError: If that part has faults; lists all of them.

    Example:
        >>> from composer_kd.config.schema import EvaluationConfig
        >>> load_part('yamls/digits/kd.yaml', EvaluationConfig).model.name
        'ShallowCNN'
    """
    source = read_source(path)
    allowed = packages_in(source.data.get('allow_imports'))
    wanted = {field.name for field in dataclasses.fields(schema)}  # type: ignore[arg-type]
    source.data = {key: value for key, value in source.data.items() if key in wanted}
    source.faults = [fault for fault in source.faults if re.split(r'[.:]', fault)[0] in wanted]
    if not believed:
        source.faults += [
            f'{path}: {written!r} would send a value from this machine to that address. Give the YAML itself (--config)'
            for path, written in addresses_with_secrets(source.data)
        ]
        with trusting(record=source.path.parent, remedy='--allow-imports {package} on the command line'):
            return check(source, schema)
    with trusting(allowed, _record(source.path)):
        return check(source, schema)


def as_mapping(config: Any) -> Any:
    """Converts a checked configuration to the content of a YAML file, with all defaults included.

    Args:
        config: A configuration, or a part of one.

    Returns:
        Mappings, lists and scalars, which ``load_config`` reads back as an equal configuration. Values that came from
        outside the file (``${oc.env:KEY}``) are interpolations again, so that no secret is saved or logged.

    Example:
        >>> as_mapping(Component('loss', 'KLDivergence', {'temperature': 2.0}))
        {'name': 'KLDivergence', 'temperature': 2.0}
    """
    return hidden(_as_mapping(config))


def _as_mapping(config: Any) -> Any:
    if isinstance(config, Component):
        name = {} if SCOPES[config.scope].only else {'name': config.name}
        return {**name, **_mapping_of(config.options)}
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: _mapping_of_section(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, list):
        return [_as_mapping(item) for item in config]
    return _mapping_of(config) if isinstance(config, dict) else config


def _mapping_of(options: dict[str, Any]) -> dict[str, Any]:
    return {key: _as_mapping(value) for key, value in options.items()}


def _mapping_of_section(value: Any) -> Any:
    if isinstance(value, dict):  # {snake_name: options}, where the key is the name
        return {k: _mapping_of(v.options) if isinstance(v, Component) else _as_mapping(v) for k, v in value.items()}
    return _as_mapping(value)
