"""Values that interpolations read from outside the file, such as ``${oc.env:KEY}``: used, but written as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import MISSING

from composer_kd.presentation.addresses import Secret, without_credentials

__all__ = ['Secret', 'Secrets', 'addresses_with_secrets', 'hidden']

# Resolvers that only combine what is in the file; all others, and those of a user's own, may read secrets.
_WITHIN = re.compile(r'\$\{\s*oc\.(select|create|decode|deprecated|dict\.keys|dict\.values)\s*:')
_OUTSIDE = re.compile(r'\$\{[^}:]*:')  # ${resolver:...}
_PUT_TOGETHER = re.compile(r'\$\{[^}:]*\$\{')  # ${variables.${name}}, which may lead to any key of the file


class Secrets:
    """Tells which interpolations of a file read something outside it, directly or through another key.

    Args:
        data: The content of the file, with its interpolations.

    Example:
        >>> secrets = Secrets({'variables': {'key': '${oc.env:KEY}', 'lr': 0.1}})
        >>> secrets.reads('key ${variables.key}'), secrets.reads('${variables.lr}')
        (True, False)
        >>> Secrets({'place': {'a': 1}, 'name': 'a'}).reads('${place.${name}}')
        False
    """

    def __init__(self, data: Any) -> None:
        texts = dict(_texts(data, ''))
        self._keys: set[str] = set()
        while True:
            found = {key for key, text in texts.items() if key not in self._keys and self.reads(text)}
            if not found:
                return
            self._keys |= found

    def reads(self, text: str) -> bool:
        """Whether an interpolation reads something outside the file."""
        if '${' not in text:
            return False
        plain = re.sub(r'[\[.]?["\']?\b(\w+)["\']?\]', r'.\1', text)  # ${a[b]} is ${a.b}
        relative = '${.' in plain
        if _OUTSIDE.search(_WITHIN.sub('${', text)) or (self._keys and _PUT_TOGETHER.search(text)):
            return True
        return any(key in plain or (relative and key.rpartition('.')[2] in plain) for key in self._keys)


def hidden(node: Any) -> Any:
    """Returns settings for whatever is written or logged: secrets as their interpolations, addresses without keys.

    Example:
        >>> hidden({'key': [Secret('s3cr3t', '${oc.env:KEY}')]})
        {'key': ['${oc.env:KEY}']}
    """
    if isinstance(node, Secret):
        return node.written
    if isinstance(node, dict):
        return {key: hidden(value) for key, value in node.items()}
    if isinstance(node, list):
        return [hidden(value) for value in node]
    return without_credentials(node) if isinstance(node, str) else node


def addresses_with_secrets(node: Any, path: str = '') -> Iterator[tuple[str, str]]:
    """Yields the keys and interpolations of addresses that values from outside the file are part of.

    Whoever wrote the file would be sent them.

    Example:
        >>> list(addresses_with_secrets({'a': [Secret('http://x/s3cr3t', 'http://x/${oc.env:KEY}')]}))
        [('a.0', 'http://x/${oc.env:KEY}')]
    """
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from addresses_with_secrets(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, Secret) and '://' in node:
        yield path, node.written


def concealed(node: Any) -> Any:
    """Returns what an interpolation gave with all texts in it as secrets that nothing can write down."""
    if isinstance(node, dict):
        return {key: concealed(value) for key, value in node.items()}
    if isinstance(node, list):
        return [concealed(value) for value in node]
    return Secret(node, MISSING) if isinstance(node, str) else node


def _texts(node: Any, prefix: str) -> list[tuple[str, str]]:
    if isinstance(node, (dict, list)):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return [found for key, value in items for found in _texts(value, f'{prefix}.{key}' if prefix else str(key))]
    return [(prefix, node)] if isinstance(node, str) and '${' in node else []
