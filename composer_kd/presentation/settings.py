"""Formats settings and their keys briefly, for lines of text, tables and plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ['label', 'leaves', 'short_names']


def label(value: Any) -> str:
    """Formats the value of a setting briefly, for tables and plots.

    Example:
        >>> label({'name': 'SGD', 'momentum': 0.9}), label(0.000123456), label(None)
        ('SGD(momentum=0.9)', '0.0001235', 'null')
    """
    if isinstance(value, dict):
        rest = ', '.join(f'{key}={label(inner)}' for key, inner in value.items() if key != 'name')
        return f'{value["name"]}({rest})' if 'name' in value and rest else str(value.get('name', f'({rest})'))
    if isinstance(value, list):
        return f'[{", ".join(map(label, value))}]'
    if isinstance(value, float):
        return f'{value:.4g}'
    return value if isinstance(value, str) else json.dumps(value)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Shortens dotted keys to their shortest suffixes that are unique and informative.

    Args:
        keys: Dotted keys.

    Returns:
        The short name of each key. ``name`` alone and suffixes that begin with an index count as uninformative; a key
        without a suitable suffix keeps its full name.

    Example:
        >>> list(short_names(['optimizer.lr', 'optimizer.name', 'model.name', 'teachers.0.model.name']).values())
        ['lr', 'optimizer.name', 'model.name', 'teachers.0.model.name']
    """
    found = {}
    for key in keys:
        parts = key.split('.')
        ends = ['.'.join(parts[-length:]) for length in range(1, len(parts) + 1)]
        saying = [end for end in ends if end != 'name' and not end[0].isdigit()]
        alone = (end for end in saying if sum(f'.{other}'.endswith(f'.{end}') for other in keys) == 1)
        found[key] = next(alone, key)
    return found


def leaves(node: Any, prefix: str = '') -> dict[str, Any]:
    """Flattens nested settings into one mapping with dotted keys.

    Args:
        node: Mappings, lists and scalars.
        prefix: The prefix of all keys.

    Returns:
        The scalars, and the empty mappings and lists, by dotted key.

    Example:
        >>> leaves({'a': {'b': 1}, 'c': [2, {}]})
        {'a.b': 1, 'c.0': 2, 'c.1': {}}
    """
    if not isinstance(node, (Mapping, list)) or not node:
        return {prefix.removesuffix('.'): node}
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    return {key: value for name, inner in items for key, value in leaves(inner, f'{prefix}{name}.').items()}
