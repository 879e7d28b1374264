"""Texts as they may be shown: addresses (URIs) without their keys, and what stands for values from outside a file."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

from typing_extensions import override

__all__ = ['HIDDEN', 'Secret', 'has_credentials', 'without_credentials']

HIDDEN = '***'
"""What stands in the place of a user with a password, or of the values of a query."""

_USER = r'(?P<scheme>[A-Za-z][\w+.-]*://)(?P<user>[^\s/?#\'"@]+@)?'
# A value of a query that may be a key; `download=true` is none.
_VALUE = re.compile(r'(?<=[=?&])[^=&]{8,}(?=&|$)')
_ADDRESS = re.compile(rf'{_USER}(?P<place>[^\s?#\'"]*)(?P<query>\?[^\s#\'"]*)?')


class Secret(str):
    """A text that came from outside the file, with the interpolation that stands for it.

    It is passed on like any text; messages and files show the interpolation.

    Args:
        value: The text.
        written: The interpolation.

    Example:
        >>> token = Secret('s3cr3t', '${oc.env:TOKEN}')
        >>> token == 's3cr3t', repr(token)
        (True, "'${oc.env:TOKEN}'")
    """

    written: str

    @override
    def __new__(cls, value: str, written: str) -> Secret:
        made = super().__new__(cls, value)
        made.written = written
        return made

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return Secret, (str(self), self.written)

    @override
    def __repr__(self) -> str:
        return repr(self.written)


def without_credentials(text: str, address: str = '') -> str:
    """Hides the keys of all addresses in a text: who logs in, and the values of a query (tokens, signatures).

    Args:
        text: A text, such as an address or a message.
        address: An address whose keys may stand in the text by themselves.

    Example:
        >>> without_credentials('at https://me:pass@host/w.pt?sig=abcdefgh&v=2 and s3://bucket/w.pt')
        'at https://***@host/w.pt?sig=***&v=2 and s3://bucket/w.pt'
        >>> without_credentials('Max retries exceeded with url: /w.pt?sig=abcdefgh', 'https://host/w.pt?sig=abcdefgh')
        'Max retries exceeded with url: /w.pt?sig=***'
    """
    if isinstance(text, Secret):
        return text.written
    for key in _keys(address):
        text = text.replace(key, HIDDEN)
    return _ADDRESS.sub(_shown, text) if '://' in text else text


def has_credentials(text: str) -> bool:
    """Whether an address in a text holds keys, or the place where they were; or the text came from outside a file.

    Example:
        >>> has_credentials('https://host/w.pt'), has_credentials('https://token@host/w.pt')
        (False, True)
    """
    return HIDDEN in text or without_credentials(text) != text


def _shown(found: re.Match[str]) -> str:
    user = f'{HIDDEN}@' if found['user'] else ''
    query = _VALUE.sub(HIDDEN, found['query'] or '')
    return f'{found["scheme"]}{user}{found["place"]}{query}'


def _keys(address: str) -> list[str]:
    """The parts of an address to hide, the longest first, as written and decoded."""
    found = _ADDRESS.fullmatch(address.partition('#')[0])
    if found is None:
        return []
    user = (found['user'] or '').rstrip('@')
    path = found['place'].partition('/')[2] if isinstance(address, Secret) else ''
    parts = {user, user.partition(':')[2], path, *_VALUE.findall(found['query'] or '')} - {''}
    return sorted(parts | {urllib.parse.unquote(part) for part in parts}, key=len, reverse=True)
