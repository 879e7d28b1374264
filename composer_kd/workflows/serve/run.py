"""The workflow of ``composer-kd serve``."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence

from composer_kd.presentation.console import terminal
from composer_kd.workflows.serve.page.gradio_extra import require_gradio
from composer_kd.workflows.serve.page.server import LOOPBACK, is_loopback, serving
from composer_kd.workflows.serve.tasks import open_task

__all__ = ['serve']


def serve(written: Sequence[str], host: str = LOOPBACK, port: int = 7860) -> None:
    """Serves a page on which the models of runs answer side by side, until it is interrupted.

    Args:
        written: Run folders, or the folder of a chain of stages.
        host: The address to listen at.
        port: The port; 0 for a free one.

    Raises:
        ComposerKDError: If Gradio is not installed, a run cannot be opened, the models are of different tasks or
            classes, or the port is in use.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # what Gradio says of its own dependencies
        require_gradio()
    warnings.filterwarnings('ignore', module='gradio')
    console = terminal()
    task = open_task(written)
    with serving(task, host, port) as address:
        listed = ', '.join(f'{model.name} ({model.role})' for model in task.models)
        console.print(f'{task.title}: {listed}', highlight=False, markup=False)
        if not is_loopback(host):
            console.print(f'{host} is reached from other machines, and the page asks for no password', style='yellow')
        console.print(
            f'The page is at {address} until Ctrl-C; its API is described at {address}?view=api', highlight=False
        )
        threading.Event().wait()
