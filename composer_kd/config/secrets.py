"""Values that interpolations read from outside the file, such as ``${oc.env:KEY}``: used, but written as they stand."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import MISSING

from composer_kd.errors import ConfigError
from composer_kd.presentation.addresses import HIDDEN, Secret, without_credentials

__all__ = ['Secret', 'Secrets', 'addresses_with_secrets', 'hidden']

# Resolvers that only combine what is in the file; all others, and those of a user's own, may read secrets.
_WITHIN = re.compile(r'\$\{\s*oc\.(select|create|decode|deprecated|dict\.keys|dict\.values)\s*:')
_OUTSIDE = re.compile(r'\$\{[^}:]*:|\$\{[\w.\s]*\$\{[^{}]*\}[\w.\s]*:')  # ${resolver:...}, ${oc.${name}:...}
_PUT_TOGETHER = re.compile(r'\$\{[^}:]*\$\{')  # ${variables.${name}}, which may lead to any key of the file
# The name in ${oc.env:NAME}, and interpolations within it.
_NAME = re.compile(r'oc\.env\s*:\s*["\']?((?:\$\{[^{}]*\}|[^,}"\'$])*)')
_PART = re.compile(r'\$\{[^{}]*\}')
_LEAST = 4  # characters of a value that is looked for in others


class Secrets:
    """Tells which interpolations of a file read something outside it, directly or through another key.

    An interpolation tells so by its text, and by its value, which holds what another one read.

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
        everything = dict(_texts(data, ''))
        texts = {key: text for key, text in everything.items() if '${' in text}
        self._literal = {*everything.values(), *_names(data)}
        self._values = {value for value in _environment(texts.values()) if len(value) >= _LEAST}
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
        if _reads_outside(text) or (self._keys and _PUT_TOGETHER.search(text)):
            return True
        return any(key in plain or (relative and key.rpartition('.')[2] in plain) for key in self._keys)

    def note(self, value: str, written: str) -> None:
        """Remembers what an interpolation gave, if it reads something outside the file by itself."""
        if len(value) >= _LEAST and _reads_outside(written):
            self._values.add(value)

    def holds(self, text: str) -> bool:
        """Whether a value from outside the file is in a text that does not stand in the file itself."""
        return text not in self._literal and any(value in text for value in self._values)

    def settled(self, node: Any) -> Any:
        """Returns what was resolved, with those of its secrets as plain texts that hold nothing from outside the file.

        Raises:
            ConfigError: If a key of a mapping holds something from outside the file.
        """
        if isinstance(node, dict):
            if any(self.holds(key) for key in node):
                raise ConfigError(
                    'a key of a mapping holds a value from outside the file, and keys are written into files: expected '
                    'such values behind keys; write the key itself into the file'
                )
            return {key: self.settled(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self.settled(value) for value in node]
        if not isinstance(node, Secret):
            return Secret(node, MISSING) if isinstance(node, str) and self.holds(node) else node
        is_secret = node.written == MISSING or self.reads(node.written) or self.holds(node)
        return node if is_secret else str(node)

    def without(self, message: str) -> str:
        """Returns a message without the values from outside the file."""
        for value in sorted(self._values - self._literal, key=len, reverse=True):
            message = message.replace(value, HIDDEN)
        return message


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


def _reads_outside(text: str) -> bool:
    return _OUTSIDE.search(_WITHIN.sub('${', text)) is not None


def _environment(texts: Iterable[str]) -> Iterator[str]:
    """The values of all variables of the environment that texts may read."""
    for name in (name for text in texts for name in _NAME.findall(text)):
        fixed = [re.escape(part) for part in _PART.split(name.strip())]
        may_be = re.compile('.*'.join(fixed))
        yield from (value for key, value in os.environ.items() if may_be.fullmatch(key))


def _names(node: Any) -> Iterator[str]:
    """All keys of a file."""
    if isinstance(node, (dict, list)):
        yield from (str(key) for key in (node if isinstance(node, dict) else ()))
        for value in node.values() if isinstance(node, dict) else node:
            yield from _names(value)


def _texts(node: Any, prefix: str) -> list[tuple[str, str]]:
    if isinstance(node, (dict, list)):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return [found for key, value in items for found in _texts(value, f'{prefix}.{key}' if prefix else str(key))]
    return [(prefix, node)] if isinstance(node, str) else []
