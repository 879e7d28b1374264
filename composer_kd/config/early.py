"""Tells slips in a YAML before torch and Composer are imported: unknown keys, and values of another plain type.

The dataclasses of the schema need Composer, so their keys and plain types are read from their source text. What this
cannot judge is left to :mod:`composer_kd.config.check`, which judges everything.
"""

from __future__ import annotations

import ast
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from composer_kd.config.shipped import located
from composer_kd.config.yaml_file import read_mapping
from composer_kd.config.yaml_source import (
    OF_STAGE,
    STAGES,
    UNRESOLVED,
    compose,
    faults_said,
    read_source,
)
from composer_kd.errors import ConfigError, nearest

__all__ = ['check_early', 'plain_types', 'sections']

WHOLE = 'RunConfig'
_SOURCES = ('profiler', 'schema')  # what the second inherits and refers to is in the first

# The words and the judgement of composer_kd.config.typecheck, which needs Composer; a test holds them together.
_PLAIN: dict[str, tuple[str, Callable[[Any], bool]]] = {
    'bool': ('true or false', lambda value: isinstance(value, bool)),
    'int': ('an integer', lambda value: isinstance(value, int) and not isinstance(value, bool)),
    'float': ('a number', lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)),
    'str': ('a string', lambda value: isinstance(value, str)),
    'None': ('null', lambda value: value is None),
}


def check_early(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> None:
    """Checks the keys of the YAML of a run, or of stages, and their plain values, without torch and Composer.

    Args:
        path: The YAML file, or ``@`` and the name of a YAML of the package.
        overrides: ``key.sub=value`` strings, as on the command line.

    Raises:
        ConfigError: If the file is missing or no YAML, or if there are slips; lists all that can be told early.

    Example:
        >>> check_early('yamls/digits/kd.yaml', ['seed=x'])
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: yamls/digits/kd.yaml: 1 fault; nothing was started
          seed: expected an integer, got 'x'
        Names and their options are checked when this is mended.
    """
    path = located(path)
    content = read_mapping(path)
    if STAGES in content:
        faults = _of_stages(path, content, overrides)
    else:
        source = read_source(path, overrides)
        faults = [*source.faults, *_slips(source.data, WHOLE, '')]
    if faults:
        said = faults_said(path, list(dict.fromkeys(faults)))
        raise ConfigError(f'{said}\nNames and their options are checked when this is mended.')


@functools.cache
def sections() -> dict[str, dict[str, ast.expr]]:
    """The annotations of the keys of each dataclass of the schema, as its source text has them.

    Example:
        >>> ast.unparse(sections()['LoaderConfig']['with_index'])
        'bool'
    """
    found: dict[str, dict[str, ast.expr]] = {}
    for name in _SOURCES:
        tree = ast.parse(pathlib.Path(__file__).with_name(f'{name}.py').read_text(encoding='utf-8'))
        for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            keys: dict[str, ast.expr] = {}
            for base in (base.id for base in node.bases if isinstance(base, ast.Name)):
                keys |= found.get(base, {})
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    keys[line.target.id] = line.annotation
            found[node.name] = keys
    return found


def plain_types(annotation: ast.expr) -> list[str] | None:
    """The plain types that a value may have.

    Args:
        annotation: The annotation of a key.

    Returns:
        Some of ``bool``, ``int``, ``float``, ``str``, ``None``, in their order; None if it allows anything else.

    Example:
        >>> plain_types(sections()['LoaderConfig']['samples_per_epoch'])
        ['int', 'None']
    """
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == 'Annotated':
        assert isinstance(annotation.slice, ast.Tuple)
        return plain_types(annotation.slice.elts[0])
    if isinstance(annotation, ast.BinOp):
        sides = plain_types(annotation.left), plain_types(annotation.right)
        return None if None in sides else [name for side in sides for name in side or ()]
    name = ast.unparse(annotation)
    return [name] if name in _PLAIN else None


def _slips(content: Any, section: str, prefix: str) -> Iterator[str]:
    """Yields the slips in a mapping with the keys of a section, one line each."""
    if not isinstance(content, dict):
        return
    known = sections()[section]
    for key, value in content.items():
        if key not in known:
            yield f'{prefix}{key}: unknown key{nearest(key, known)}'
        elif value is not UNRESOLVED:
            yield from _wrong_value(value, known[key], f'{prefix}{key}')


def _wrong_value(value: Any, annotation: ast.expr, key: str) -> Iterator[str]:
    types = plain_types(annotation)
    if types is not None:
        if not any(_PLAIN[name][1](value) for name in types):
            yield f'{key}: expected {" or ".join(_PLAIN[name][0] for name in types)}, got {value!r}'
        return
    names = (node.id for node in ast.walk(annotation) if isinstance(node, ast.Name))
    inner = next((name for name in names if name in sections()), None)
    if inner is None:
        return
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from _slips(one, inner, f'{key}.{number}.')
    else:
        yield from _slips(value, inner, f'{key}.')


def _of_stages(path: pathlib.Path, content: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """The slips of all stages: what every stage has is said once, anything else with the stages that have it."""
    stages = content.pop(STAGES)
    found: dict[str, list[str]] = {}
    judged = [name for name, one in stages.items() if _is_judged(one)] if isinstance(stages, dict) else []
    common = [one for one in overrides if not one.lstrip('-').startswith(f'{STAGES}.')]
    for name in judged:
        head = f'{STAGES}.{name}.'
        own = [one.lstrip('-').removeprefix(head) for one in overrides if one.lstrip('-').startswith(head)]
        own = [one for one in own if one.partition('=')[0] not in OF_STAGE]
        settings = {key: value for key, value in (stages[name] or {}).items() if key not in OF_STAGE}
        for fault in _slips(compose(path, content, settings, [*common, *own]).data, WHOLE, ''):
            found.setdefault(fault, []).append(name)
    everywhere = [fault for fault, names in found.items() if len(names) == len(stages)]
    return everywhere + [
        f'{STAGES}.{name}.{fault}' for fault, names in found.items() if fault not in everywhere for name in names
    ]


def _is_judged(settings: Any) -> bool:
    return settings is None or (isinstance(settings, dict) and 'yaml' not in settings)
