"""Checks and mends a run folder before a resume: the settings are those of the saved run, the checkpoint is whole."""

from __future__ import annotations

import os
import pathlib
import tempfile
import warnings
import zipfile
import zlib
from typing import Any

from composer.utils import dist

from composer_kd.config.effects import differing
from composer_kd.config.load import as_mapping
from composer_kd.config.markers import Effect
from composer_kd.config.schema import RunConfig
from composer_kd.config.yaml_file import read_mapping
from composer_kd.errors import CheckpointError, ConfigError
from composer_kd.presentation.addresses import without_credentials
from composer_kd.presentation.settings import leaves
from composer_kd.runs.files import CONFIG_FILE, checkpoints, latest_in
from composer_kd.runs.folder import holds_run
from composer_kd.runs.remote import record_at
from composer_kd.teachers.checkpoints import read_checkpoint

__all__ = ['check_resumable', 'check_settings', 'mend_latest', 'resumes_from', 'saved_settings']

MAY_CHANGE = (Effect.MICROBATCH, Effect.LENGTH, Effect.START, Effect.EVALUATION, Effect.CALLBACKS)
"""Effects of the keys that may change on a resume: the run may become longer, and starts from its own checkpoint."""


def check_resumable(config: RunConfig) -> None:
    """Checks before a resume that the settings match those of the saved run, and mends its latest checkpoint.

    With other settings, ``config.yaml`` in the run folder would not describe how the checkpoint was trained.

    Args:
        config: The run that is about to start.

    Raises:
        ConfigError: If settings differ from ``config.yaml`` in the run folder, and lists them; or if ``config.yaml``
            is damaged, or the checkpoint cannot be gone on from.
    """
    check_settings(config)
    folder = config.folder
    if config.autoresume and folder is not None and holds_run(folder) and dist.get_global_rank() == 0:
        mend_latest(folder)


def check_settings(config: RunConfig) -> None:
    """Checks before a resume that the settings match those of the saved run, and changes nothing.

    Args:
        config: The run that is about to start.

    Raises:
        ConfigError: As :func:`check_resumable`.
    """
    folder = config.folder
    if config.autoresume and config.remote_folder is not None and dist.get_global_rank() == 0:
        _check_remote_settings(config, config.remote_folder)
    if not config.autoresume or folder is None or not holds_run(folder):
        return
    before = saved_settings(folder)
    if before is not None:
        _check_settings(before, config, folder)


def resumes_from(folder: pathlib.Path) -> pathlib.Path | None:
    """Finds the checkpoint that a run would go on from: the newest whole one.

    Args:
        folder: The run folder.

    Returns:
        The file; None if there is none.
    """
    return next((file for file in checkpoints(folder) if file.name.endswith('-rank0.pt') and _is_whole(file)), None)


def _check_settings(before: dict[str, Any], config: RunConfig, folder: pathlib.Path | str) -> None:
    _check_names(before, config, folder)
    old, new = leaves(before), leaves(as_mapping(config))
    changed = differing(old, new, *MAY_CHANGE)
    if changed:
        lines = [f'  {key}: {old.get(key, "(nothing)")!r} → {new.get(key, "(nothing)")!r}' for key in changed]
        raise ConfigError(
            f'autoresume: {folder} holds a run with other settings, and going on would make its record false:\n'
            + '\n'.join(lines)
            + '\nTake another run_name (or save_folder), or start anew with autoresume=false save_overwrite=true.'
        )
    if before.get('save_weights_only'):
        raise ConfigError(
            f'autoresume: the run in {folder} saved weights alone (save_weights_only), without the optimizer, and '
            'cannot be gone on from. Start anew with autoresume=false save_overwrite=true, or take another run_name'
        )


def _check_remote_settings(config: RunConfig, folder: str) -> None:
    text = record_at(folder, CONFIG_FILE)
    if text is None:
        return
    with tempfile.TemporaryDirectory() as aside:
        file = pathlib.Path(aside, CONFIG_FILE)
        file.write_text(text, encoding='utf-8')
        before = saved_settings(file.parent)
    assert before is not None
    _check_settings(before, config, without_credentials(folder))


def _check_names(before: dict[str, Any], config: RunConfig, folder: pathlib.Path | str) -> None:
    """Refuses other names of files: Composer would not find the checkpoint, and would start from the beginning."""
    for key in ('save_filename', 'save_latest_filename'):
        old = before.get(key, getattr(RunConfig, key))
        if old != getattr(config, key):
            raise ConfigError(
                f'autoresume: the run in {folder} saves with {key}: {old}, and its checkpoints would not be found '
                f'under {getattr(config, key)}. Leave {key} as it was'
            )


def saved_settings(folder: pathlib.Path) -> dict[str, Any] | None:
    """Reads the settings of the run in a folder.

    Args:
        folder: The run folder.

    Returns:
        The content of its ``config.yaml``; None if there is none.

    Raises:
        ConfigError: If the file is damaged.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        return None
    try:
        return read_mapping(file)
    except ConfigError as error:
        reason = ' '.join(str(error).split())[:200]
        raise ConfigError(
            f'autoresume: {file} is damaged, so nothing tells whether the settings are the same ({reason}). Delete it '
            'to go on with the settings given now, or take another run_name'
        ) from error


def mend_latest(folder: pathlib.Path) -> None:
    """Points ``latest-rank0.pt`` to the newest whole checkpoint, which a kill or a full disk may have prevented.

    A checkpoint that is cut short is left where it is: the run writes it anew when it gets there. Sharded checkpoints
    are folders, and are left to Composer.

    Args:
        folder: The run folder.

    Warns:
        UserWarning: If checkpoints are damaged; says where the run goes on.

    Raises:
        ConfigError: If a whole checkpoint cannot be read safely.
    """
    latest = latest_in(folder)
    files = [file for file in checkpoints(folder) if file.name.endswith('-rank0.pt')]
    if latest.is_file() and not latest.is_symlink():  # a copy of the folder, by a tool that follows links
        files = [latest, *files]
    if not files and (latest.is_dir() or not latest.is_symlink()):
        return
    damaged = []
    for file in files:
        if _is_whole(file):
            break
        damaged.append(file.name)
    else:
        file = None
    if damaged:
        where = f'goes on from {file.name}' if file is not None else 'starts from the beginning'
        warnings.warn(f'autoresume: in {folder}, damaged: {", ".join(damaged)}. The run {where}.', stacklevel=2)
    if file is None:
        if latest.is_symlink():
            latest.unlink()
        elif latest.is_file():
            os.replace(latest, latest.with_name(f'{latest.name}.damaged'))
        return
    _check_readable(file)
    if file != latest:
        _link(latest, file.name)


def _is_whole(file: pathlib.Path) -> bool:
    """Whether every part of a checkpoint is there with the checksum that was written with it."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False


def _check_readable(file: pathlib.Path) -> None:
    try:
        checkpoint = read_checkpoint(file)
    except CheckpointError as error:
        raise ConfigError(f'autoresume: {file} cannot be gone on from. {error}') from error
    if not checkpoint.from_composer:
        raise ConfigError(f'autoresume: {file} holds weights alone, and cannot be gone on from; take another run_name')


def _link(latest: pathlib.Path, target: str) -> None:
    if latest.is_symlink() and os.readlink(latest) == target:
        return
    part = latest.with_name(f'{latest.name}.part')
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    os.replace(part, latest)
