"""Serves the page of a task on this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

from composer_kd.errors import ConfigError
from composer_kd.presentation.templates import render
from composer_kd.workflows.serve.page.gradio_extra import require_gradio
from composer_kd.workflows.serve.page.guard import Guard
from composer_kd.workflows.serve.page.views import MOST_PICTURE_BYTES, view
from composer_kd.workflows.serve.tasks import Task

__all__ = ['LOOPBACK', 'MOST_WAITING', 'build_page', 'is_loopback', 'serving']

LOOPBACK = '127.0.0.1'
MOST_WAITING = 32
"""How many requests may wait for their turn; the others are told to come back."""

SECONDS_KEPT = 3600
"""How long a picture stays in Gradio's folder for uploads; all of them go when the page ends."""

_CSS = pathlib.Path(__file__).parent / 'page.css'
_FONTS = 'system-ui', 'sans-serif'
_MONO = 'ui-monospace', 'monospace'
_TITLE = 'Teacher and students, side by side'


def build_page(task: Task) -> Any:
    """Builds the page of a task.

    Args:
        task: The task, with the models.

    Returns:
        A ``gradio.Blocks``.

    Raises:
        ConfigError: If Gradio is not installed.
    """
    gr = require_gradio()
    kept = (SECONDS_KEPT, SECONDS_KEPT)
    with gr.Blocks(title=_TITLE, analytics_enabled=False, fill_width=True, delete_cache=kept) as page:
        gr.HTML(
            render('workflows/serve/page/head.html', title=_TITLE, task=task.title, models=len(task.models)),
            padding=False,
        )
        view(task, gr)
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=1, api_open=False)
    return page


@contextlib.contextmanager
def serving(task: Task, host: str = LOOPBACK, port: int = 7860) -> Iterator[str]:
    """Serves the page of a task while the block runs.

    Args:
        task: The task, with the models.
        host: The address to listen at; the default is reached from this machine alone.
        port: The port; 0 for a free one.

    Yields:
        The address of the page.

    Raises:
        ConfigError: If Gradio is not installed, or the address or port cannot be used.
    """
    gr = require_gradio()
    from starlette.middleware import Middleware

    port = _free_port(host, port)
    page = build_page(task)
    hosts = {'127.0.0.1', 'localhost', '[::1]', host} if is_loopback(host) else None
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True, inbrowser=False,
            show_error=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
            max_file_size=MOST_PICTURE_BYTES, footer_links=['api', 'settings'], css_paths=[_CSS],
            theme=_theme(gr),
            app_kwargs={'middleware': [Middleware(Guard, hosts=hosts)]},
        )  # fmt: skip
        yield address
    finally:
        page.close(verbose=False)


def _theme(gr: Any) -> Any:
    """The colours, which can be read in light and dark, and the fonts of the reader's machine."""
    fonts, mono = ([gr.themes.Font(name) for name in names] for names in (_FONTS, _MONO))
    strong = {f'button_primary_background_fill{part}': '*primary_700' for part in ('', '_dark')}
    hover = {f'button_primary_background_fill_hover{part}': '*primary_800' for part in ('', '_dark')}
    quiet = {
        f'{name}{part}': f'*neutral_{shade}'
        for name in ('body_text_color_subdued', 'block_info_text_color')
        for part, shade in (('', 600), ('_dark', 300))
    }
    return gr.themes.Default(primary_hue='teal', font=fonts, font_mono=mono).set(**strong, **hover, **quiet)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone.

    Example:
        >>> is_loopback('127.0.0.1'), is_loopback('localhost'), is_loopback('0.0.0.0')
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return host == 'localhost'


def _free_port(host: str, port: int) -> int:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip('[]'), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
            found: int = one.getsockname()[1]
            return found
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f'{host}, port {port}, cannot be used: {error}. Give another --port, or another --host'
        ) from error
