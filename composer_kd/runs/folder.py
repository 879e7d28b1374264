"""A run folder belongs to one run: what lies there is not replaced unasked, and two processes do not share it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import warnings
from collections.abc import Iterator

from composer.utils import dist, maybe_create_object_store_from_uri, parse_uri
from filelock import FileLock, Timeout

from composer_kd.callbacks.best import BEST_RECORD
from composer_kd.callbacks.history import HISTORY_FILE
from composer_kd.config.schema import RunConfig
from composer_kd.errors import ConfigError
from composer_kd.presentation.addresses import without_credentials
from composer_kd.runs.files import CONFIG_FILE, LATEST, LOCK_FILE, METRICS_FILE, STAGES_FILE, checkpoints, make_folder

__all__ = ['alone_in', 'check_files', 'check_remote', 'check_unused', 'clear', 'holds_run', 'locked']

SECONDS_TO_WAIT = 8.0
"""The workers of a killed run keep its lock until they notice, which takes them 5 seconds."""


def holds_run(folder: pathlib.Path) -> bool:
    """Tells whether a folder holds what a run found: a checkpoint, final metrics, or numbers of a batch.

    Args:
        folder: The folder.

    Returns:
        False for a run that ended before its first batch, whose settings alone may lie there.
    """
    return bool(checkpoints(folder)) or any(folder.glob('*latest*-rank*')) or _has_numbers(folder)


def _has_numbers(folder: pathlib.Path) -> bool:
    history = folder / HISTORY_FILE
    if (folder / METRICS_FILE).is_file():
        return True
    with contextlib.suppress(OSError), open(history, 'rb') as lines:
        return sum(1 for _ in zip(lines, range(2))) == 2  # the first line holds the run's id alone
    return False


def check_unused(config: RunConfig) -> None:
    """Checks that a run does not replace another one unasked.

    Args:
        config: The run that is about to start.

    Raises:
        ConfigError: If its folder holds a run, and neither ``autoresume`` nor ``save_overwrite`` says what to do; or
            if it is that of a chain of stages.
    """
    folder = config.folder
    if folder is not None and (folder / STAGES_FILE).is_file():
        raise ConfigError(
            f'save_folder: {folder} is the folder of a chain of stages, and commands that are given it would not see '
            'this run: give it another run_name=... or save_folder=...'
        )
    if folder is not None and not _is_asked(config) and holds_run(folder):
        raise _occupied(str(folder), (folder / METRICS_FILE).is_file())


def check_files(config: RunConfig) -> None:
    """Checks that nothing but files lies where a run writes files.

    Args:
        config: The run that is about to start.

    Raises:
        ConfigError: If a folder, a pipe, a device or a link to nothing has the name of one of its files: the run would
            fail when it gets there, wait forever, or write somewhere else.
    """
    folder = config.folder
    if folder is None:
        return
    names = (CONFIG_FILE, METRICS_FILE, HISTORY_FILE)
    places = [*(folder / name for name in names), *(folder / f'{name}.part' for name in names)]
    links = [folder / LATEST, folder / config.latest_name]
    places += [*sorted(folder.glob('*ep*-ba*-rank*.pt')), *links]
    wrong = [place for place in places if os.path.lexists(place) and not place.is_file()]
    # A kill between two checkpoints leaves the link to one that is deleted.
    wrong = [place for place in wrong if place not in links or not place.is_symlink()]
    if wrong:
        raise ConfigError(
            f'save_folder: {", ".join(map(str, wrong))}: expected a file, got a folder, a pipe, or a link to nothing. '
            'Remove it, or give this run another run_name=... or save_folder=...'
        )


def check_remote(config: RunConfig) -> None:
    """Checks before a run that checkpoints can be saved behind a URI, and that none lies there.

    Args:
        config: The run that is about to start.

    Raises:
        ConfigError: If ``save_folder`` is a URI of an unknown kind, its packages or credentials are missing, or it
            holds a run.
    """
    if config.save_folder is None or config.folder is not None or dist.get_global_rank() != 0:
        return
    uri = config.save_folder.replace('{run_name}', str(config.run_name))
    backend, _, path = parse_uri(uri)
    if backend == 'dbfs':  # to connect starts a run of MLflow
        return
    try:
        store = maybe_create_object_store_from_uri(uri)
        assert store is not None
        with contextlib.suppress(FileNotFoundError):
            store.get_object_size(f'{path.rstrip("/")}/{config.latest_name}.symlink')
            if not _is_asked(config):
                raise _occupied(without_credentials(uri), finished=False)
    except ConfigError:
        raise
    except Exception as error:  # each object store has its own errors
        reason = without_credentials(' '.join(str(error).split()), uri)[:300]
        raise ConfigError(
            f'save_folder: {without_credentials(uri)} cannot be used: {type(error).__name__}: {reason}. Give a folder '
            'on this machine, or an s3://, gs://, oci:// or azure:// that this machine can reach'
        ) from error


def _is_asked(config: RunConfig) -> bool:
    return config.autoresume or config.save_overwrite is True


def _occupied(place: str, finished: bool) -> ConfigError:
    return ConfigError(
        f'{place} holds a run{" that has finished" if finished else ""}, and training there would replace it. Go on '
        'with it: autoresume=true. Replace it: save_overwrite=true. Keep it: give this run another run_name=... or '
        'save_folder=...'
    )


def clear(folder: pathlib.Path) -> None:
    """Removes what an earlier run left, so that nothing in the folder is taken for the new run's.

    Args:
        folder: The folder, of which checkpoints, metrics and history are deleted.
    """
    named = [folder / name for name in (METRICS_FILE, HISTORY_FILE, BEST_RECORD)]
    for file in (*checkpoints(folder), *folder.glob('*latest*-rank*.pt'), *folder.glob('best-rank*.pt'), *named):
        if file.is_symlink() or not file.is_dir():
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: pathlib.Path | None) -> Iterator[None]:
    """Keeps other processes from training in a folder while the block runs; the system frees it if this one is killed.

    Args:
        folder: The folder; created if it does not exist. None locks nothing.

    Raises:
        ConfigError: If a run is training there, or the folder cannot be used.
    """
    if folder is None:
        yield
        return
    make_folder(folder, 'save_folder')
    refusal = (
        f'{folder} is in use: another process trains there. Wait for it, or give this run another run_name=... or '
        'save_folder=...'
    )
    with locked(folder / LOCK_FILE, SECONDS_TO_WAIT, refusal):
        yield


@contextlib.contextmanager
def locked(file: pathlib.Path, seconds: float, refusal: str) -> Iterator[None]:
    """Holds a lock while the block runs; the system frees it if this process is killed.

    Args:
        file: The file that is locked, in an existing folder.
        seconds: How long to wait for another process.
        refusal: What to say if that one still holds it.

    Raises:
        ConfigError: If another process holds the lock.
    """
    lock = FileLock(file, fallback_to_soft=False)  # a soft lock would stay when its process is killed
    try:
        lock.acquire(timeout=seconds)
    except Timeout as error:
        raise ConfigError(refusal) from error
    except (OSError, NotImplementedError) as error:  # some network file systems have no locks
        warnings.warn(
            f'{file.parent} cannot be locked ({error}): see to it that one process at a time uses it', stacklevel=5
        )
    try:
        yield
    finally:
        lock.release()
