"""Imports Gradio, which the extra ``serve`` installs."""

from __future__ import annotations

from typing import Any

from composer_kd.errors import ConfigError

__all__ = ['require_gradio']


def require_gradio() -> Any:
    """Imports Gradio.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(
            f"composer-kd serve needs the gradio library: pip install 'composer_kd[serve]' ({error})"
        ) from error
    return gradio
