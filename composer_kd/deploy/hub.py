"""Puts an export on the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

from composer_kd.deploy.exporter import CARD_FILE, Exported
from composer_kd.errors import ConfigError

__all__ = ['check_access', 'push_to_hub']

_LOG_IN = (
    'log in with `huggingface-cli login`, or set HF_TOKEN, with a token that may write '
    '(https://huggingface.co/settings/tokens)'
)


def push_to_hub(
    exported: Exported | str | pathlib.Path,
    name: str,
    private: bool | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Uploads an export with its model card, in one commit, to a model on the Hugging Face Hub.

    The model is created if there is none. Files of it that the export doesn't have stay.

    Args:
        exported: What an export returned, of which its own files and the card are uploaded; or a folder, with all of
            its files.
        name: The model on the Hub: ``'user/name'``, or ``'name'`` for the owner of the token.
        private: Whether a model that is created is private; ``None`` for the Hub's default: public, unless its
            organization has another one. An existing model stays what it is.
        token: The token; ``None`` for that of ``HF_TOKEN`` or of ``huggingface-cli login``.
        endpoint: The address of the Hub; ``None`` for ``HF_ENDPOINT``, or https://huggingface.co.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: If there is no model card in the folder or its metadata are invalid, the name is none, the token
            is missing or may not write there, or the Hub cannot be reached. The export stays as it is.

    Example:
        >>> push_to_hub('yamls', 'me/digits-kd')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: yamls has no README.md: expected a folder of `composer-kd export`...
    """
    folder = exported.folder if isinstance(exported, Exported) else pathlib.Path(exported)
    if not (folder / CARD_FILE).is_file():
        raise ConfigError(
            f'{folder} has no {CARD_FILE}: expected a folder of `composer-kd export`, such as RUN/export/onnx'
        )
    patterns = [*exported.files, CARD_FILE] if isinstance(exported, Exported) else None
    with _said(name):
        api = _api(token, endpoint)
        made = api.create_repo(name, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=made, folder_path=folder, allow_patterns=patterns, commit_message='Upload by composer_kd'
        )
    return str(commit.commit_url)


def check_access(name: str, token: str | None = None, endpoint: str | None = None) -> None:
    """Checks the name of a model and the token, before a long export.

    Args:
        name: The model on the Hub.
        token: The token, as for :func:`push_to_hub`.
        endpoint: The address of the Hub, likewise.

    Raises:
        ConfigError: If the name is none, the token is missing or unknown, or the Hub cannot be reached.
    """
    with _said(name):
        api = _api(token, endpoint)
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        validate_repo_id(name)
        api.whoami()


def _api(token: str | None, endpoint: str | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, token=token, library_name='composer_kd')


@contextlib.contextmanager
def _said(name: str) -> Iterator[None]:
    """Says what to do about the errors of the Hub."""
    try:
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalTokenNotFoundError,
            OfflineModeIsEnabled,
        )
    except ImportError as error:
        raise ConfigError("push_to_hub needs huggingface_hub: pip install 'composer_kd[nlp]'") from error
    try:
        yield
    except HFValidationError as error:
        raise ConfigError(f"{name!r} is no name of a model on the Hub: expected 'user/name'; {error}") from error
    except LocalTokenNotFoundError as error:
        raise ConfigError(f'{name}: the Hub wants to know who uploads: {_LOG_IN}') from error
    except OfflineModeIsEnabled as error:
        raise ConfigError(f'{name}: HF_HUB_OFFLINE is set; unset it to upload') from error
    except (HfHubHTTPError, OSError) as error:  # connections fail with the second
        if getattr(error, 'response', None) is not None:
            raise ConfigError(f'{name}: {_reason(error)}') from error
        raise ConfigError(
            f'{name}: the Hub cannot be reached ({type(error).__name__}). The export stays where it is; push it later '
            'with composer_kd.deploy.push_to_hub(FOLDER, NAME)'
        ) from error
    except ValueError as error:  # the metadata of the card, which the Hub checks before it takes anything
        raise ConfigError(f'{name}: {" ".join(str(error).split())[:400]}') from error


def _reason(error: Any) -> str:
    status = getattr(error.response, 'status_code', None)
    if status == 401:
        return f'the token is missing or unknown to the Hub: {_LOG_IN}'
    if status == 403:
        return f"the token may not write there. Give a name that is yours, 'user/name', or {_LOG_IN}"
    return f'the Hub refused it: {" ".join(str(error).split())[:400]}'
