"""Run folders behind URIs: what lies there, fetched once, and the records of a run that saves there."""

from __future__ import annotations

import atexit
import contextlib
import functools
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

from composer.loggers import RemoteUploaderDownloader
from composer.utils import dist, get_file, maybe_create_object_store_from_uri, parse_uri

from composer_kd.callbacks.history import HISTORY_FILE
from composer_kd.config.schema import RunConfig
from composer_kd.errors import CheckpointNotFoundError, ConfigError
from composer_kd.presentation.addresses import has_credentials, without_credentials
from composer_kd.runs.files import CONFIG_FILE, LATEST, METRICS_FILE

__all__ = ['check_uploaders', 'checkpoint_at', 'fetched', 'is_remote', 'object_named', 'put', 'reaching', 'record_at']

_ENDINGS = ('.pt', '.pth', '.bin', '.safetensors', '.ckpt')
_REMEDY = 'Give a folder on this machine, or an s3://, gs://, oci:// or azure:// that this machine can reach'
_LEFT_TO_COMPOSER = ('dbfs',)
"""Kinds of stores to which to connect starts a run of MLflow."""


def is_remote(written: object) -> bool:
    """Whether a path is the URI of something that lies elsewhere.

    Example:
        >>> is_remote('s3://bucket/runs/kd'), is_remote('runs/kd')
        (True, False)
    """
    return isinstance(written, str) and '://' in written


def is_left_to_composer(uri: str) -> bool:
    """Whether a store is not connected to before the run."""
    return parse_uri(uri)[0] in _LEFT_TO_COMPOSER


def checkpoint_at(uri: str) -> str:
    """The address of a checkpoint: the URI's own, or that of the latest one of a run folder.

    Example:
        >>> checkpoint_at('s3://bucket/runs/kd/'), checkpoint_at('s3://bucket/runs/kd/ep1-ba4-rank0.pt')
        ('s3://bucket/runs/kd/latest-rank0.pt', 's3://bucket/runs/kd/ep1-ba4-rank0.pt')
    """
    address = uri.partition('?')[0]
    return address if address.endswith(_ENDINGS) else f'{address.rstrip("/")}/{LATEST}'


@functools.cache
def fetched(uri: str) -> pathlib.Path:
    """Copies a run folder, or a checkpoint with its settings, to this machine, once in a process.

    Args:
        uri: The URI of a run folder, whose latest checkpoint is taken, or of a checkpoint. The ``config.yaml`` beside
            it comes along, and ``metrics.json`` and ``history.jsonl`` if they are there.

    Returns:
        The folder on this machine; for the URI of a checkpoint, the file in it. It is removed when the process ends.

    Raises:
        CheckpointNotFoundError: If there is no checkpoint.
        ConfigError: If the store cannot be reached.
    """
    address, query, _ = uri.partition('?')
    is_file = address.endswith(_ENDINGS)
    folder, _, name = address.rpartition('/') if is_file else (address.rstrip('/'), '', LATEST)
    place = pathlib.Path(tempfile.mkdtemp(prefix='composer_kd_'), pathlib.PurePosixPath(folder).name or 'run')
    place.mkdir()
    atexit.register(shutil.rmtree, place.parent, ignore_errors=True)
    file = place / name
    with reaching(uri, '', 'fetched', 'Copy it to this machine, or give credentials and packages'):
        if not _get(uri if is_file else f'{folder}/{name}', file):
            shown = without_credentials(uri)
            inside = '' if is_file else f' (a folder without {LATEST}, or {LATEST}.symlink, which Composer writes)'
            raise CheckpointNotFoundError(f'no checkpoint at {shown}{inside}')
        for record in () if query else (CONFIG_FILE, METRICS_FILE, HISTORY_FILE):  # a query is signed for one file
            _get(f'{folder}/{record}', place / record)
    return file if is_file else place


def record_at(folder: str, name: str) -> str | None:
    """Reads a record of a run in its remote folder.

    Args:
        folder: The URI of the folder.
        name: The name of the file.

    Returns:
        Its content; None if it is not there.

    Raises:
        ConfigError: If the store cannot be reached.
    """
    if is_left_to_composer(folder):
        return None
    with tempfile.TemporaryDirectory() as aside, reaching(folder, 'save_folder', 'read'):
        file = pathlib.Path(aside, name)
        return file.read_text(encoding='utf-8') if _get(f'{folder.rstrip("/")}/{name}', file) else None


def check_uploaders(config: RunConfig) -> None:
    """Checks before a run that the stores of its loggers that upload files can be reached.

    Args:
        config: The run that is about to start.

    Raises:
        ConfigError: If one is of an unknown kind, its packages or credentials are missing, or it does not answer.
    """
    for part in config.loggers.values() if dist.get_global_rank() == 0 else ():
        uri = part.options.get('bucket_uri')
        if part.target is RemoteUploaderDownloader and isinstance(uri, str) and not part.options.get('backend_kwargs'):
            with reaching(uri, f'{part.path}.bucket_uri'):
                store = maybe_create_object_store_from_uri(uri)
                assert store is not None
                with contextlib.suppress(FileNotFoundError):
                    store.get_object_size(LATEST)


def object_named(folder: str, name: str) -> str:
    """The name in its store of a file in a remote folder.

    Example:
        >>> object_named('s3://bucket/runs/kd/', 'config.yaml')
        'runs/kd/config.yaml'
    """
    return f'{parse_uri(folder)[2].rstrip("/")}/{name}'.lstrip('/')


def put(folder: str, name: str, text: str) -> None:
    """Writes a record of a run into its remote folder.

    Args:
        folder: The URI of the folder.
        name: The name of the file.
        text: Its content.

    Raises:
        ConfigError: If it cannot be written there.
    """
    if is_left_to_composer(folder):
        return
    with tempfile.TemporaryDirectory() as aside, reaching(folder, 'save_folder', 'written to'):
        file = pathlib.Path(aside, name)
        file.write_text(text, encoding='utf-8')
        store = maybe_create_object_store_from_uri(folder)
        assert store is not None
        store.upload_object(object_name=object_named(folder, name), filename=str(file))


@contextlib.contextmanager
def reaching(uri: str, key: str, what: str = 'used', remedy: str = _REMEDY) -> Iterator[None]:
    """Says in one line what is wrong with a remote place.

    Args:
        uri: The place.
        key: What names it; empty if the user did.
        what: What cannot be done with it.
        remedy: What to do.

    Raises:
        ConfigError: If the block fails.
    """
    try:
        yield
    except (ConfigError, CheckpointNotFoundError):
        raise
    except Exception as error:  # each object store has its own errors
        reason = without_credentials(' '.join(str(error).split()), uri)[:300].rstrip('.')
        place = without_credentials(uri) if not key else f'{key}: {without_credentials(uri)}'
        raise ConfigError(f'{place} cannot be {what}: {type(error).__name__}: {reason}. {remedy}') from (
            None if has_credentials(uri) else error
        )


def _get(uri: str, file: pathlib.Path) -> bool:
    """Fetches one file; Composer follows the link that it keeps to the latest checkpoint. False if it is not there."""
    try:
        get_file(uri, str(file), progress_bar=sys.stderr.isatty() and not has_credentials(uri))
    except FileNotFoundError:
        return False
    return True
