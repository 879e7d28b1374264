"""What stands between a browser and Gradio: no address of the internet in either direction, and no large request."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

__all__ = ['MOST_BYTES', 'POLICY', 'Guard', 'names_address']

MOST_BYTES = 12_000_000
"""The largest body of a request that is no upload; a picture of 8 MB is larger as text."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "media-src 'self' data: blob:; frame-src 'none'; frame-ancestors 'none'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)
"""The Content-Security-Policy: a browser asks no other machine for anything."""

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_UPLOAD = '/upload'  # has a limit of its own in Gradio


class Guard:
    """ASGI middleware that refuses what the page never asks for.

    * The name in the address must be that of this machine, so that no other web site's name leads here.
    * A body has at most :data:`MOST_BYTES`.
    * A file in it is one that was uploaded: of an address, Gradio would fetch it.

    Args:
        app: The application behind it.
        hosts: The names under which it is reached; None for any.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], hosts: Iterable[str] | None = None) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Handles a request."""
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        if self._hosts is not None and _host(scope) not in self._hosts:
            await _refuse(send, 400, 'this page is not served under that name')
            return
        if scope['method'] == 'POST' and not scope['path'].endswith(_UPLOAD):
            body = await _body(receive)
            if body is None:
                await _refuse(send, 413, f'expected a request of at most {MOST_BYTES:,} bytes')
                return
            if names_address(body):
                await _refuse(send, 400, 'expected an uploaded file, got an address')
                return
            receive = _again(body, receive)
        await self._app(scope, receive, _with_policy(send))


def names_address(body: bytes) -> bool:
    """Whether a file in a JSON body is one of another machine.

    Args:
        body: The body.

    Example:
        >>> names_address(b'{"data": [{"path": "http://a/b.png"}]}'), names_address(b'{"data": ["http://a"]}')
        (True, False)
    """
    try:
        parts = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if '://' in str(part.get('path', '')):
                return True
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    return False


def _host(scope: _Message) -> str:
    written = next((value.decode('latin-1') for name, value in scope['headers'] if name == b'host'), '')
    return written.rpartition(':')[0] if written.rpartition(':')[2].isdecimal() else written


async def _body(receive: _Receive) -> bytes | None:
    """Reads the body; None if it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        got = await receive()
        if got['type'] != 'http.request':
            return b''.join(parts)
        parts.append(got.get('body', b''))
        size += len(parts[-1])
        if size > MOST_BYTES:
            return None
        if not got.get('more_body', False):
            return b''.join(parts)


def _again(body: bytes, receive: _Receive) -> _Receive:
    """Gives a body that was read once more, and then what follows it."""
    given = False

    async def read() -> _Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {'type': 'http.request', 'body': body, 'more_body': False}

    return read


def _with_policy(send: _Send) -> _Send:
    headers = [
        (b'content-security-policy', POLICY.encode()),
        (b'referrer-policy', b'no-referrer'),
        (b'x-content-type-options', b'nosniff'),
    ]

    async def sending(message: _Message) -> None:
        if message['type'] == 'http.response.start':
            message = {**message, 'headers': [*message.get('headers', []), *headers]}
        await send(message)

    return sending


async def _refuse(send: _Send, status: int, why: str) -> None:
    body = json.dumps({'detail': why}).encode()
    headers = [(b'content-type', b'application/json'), (b'content-length', str(len(body)).encode())]
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})
