"""The file names in a run folder, and functions that create the folder and find a checkpoint."""

from __future__ import annotations

import os
import pathlib
import re

from composer_kd.errors import CheckpointNotFoundError, ConfigError
from composer_kd.presentation.addresses import without_credentials

__all__ = [
    'CONFIG_FILE',
    'LATEST',
    'LOCK_FILE',
    'METRICS_FILE',
    'STAGES_FILE',
    'STAGE_FILE',
    'checkpoint_file',
    'checkpoints',
    'make_folder',
]


def make_folder(folder: pathlib.Path | None, key: str) -> None:
    """Creates a folder for results before the work starts.

    Args:
        folder: The folder; None creates nothing.
        key: The key that sets the folder, for the message.

    Raises:
        ConfigError: If it cannot be created or written to.
    """
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(f'no permission to write into {str(folder)!r}')
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise ConfigError(f'{key}: the folder {str(folder)!r} cannot be used: {error}') from error


CONFIG_FILE = 'config.yaml'


METRICS_FILE = 'metrics.json'


STAGES_FILE = 'stages.json'


STAGE_FILE = 'stage.json'


LATEST = 'latest-rank0.pt'


LOCK_FILE = '.lock'


_SAVED = re.compile(r'ep(\d+)-ba(\d+)-rank\d+\.pt')


def checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the checkpoints that a run saved, whole or not, the latest first.

    Args:
        folder: The run folder.

    Returns:
        The files ``ep<epoch>-ba<batch>-rank<rank>.pt``; empty if there are none, or no folder.
    """
    found = ((_SAVED.fullmatch(file.name), file) for file in folder.glob('ep*-ba*-rank*.pt'))
    named = [((int(match[2]), int(match[1])), file) for match, file in found if match is not None and file.is_file()]
    return [file for _, file in sorted(named, reverse=True)]


def checkpoint_file(written: str) -> pathlib.Path:
    """Finds a checkpoint file.

    Args:
        written: A checkpoint, or a run folder.

    Returns:
        The file; for a run folder, its latest checkpoint.

    Raises:
        CheckpointNotFoundError: If there is none.
        ConfigError: If it is a URI.
    """
    if '://' in written:
        raise ConfigError(
            f'{without_credentials(written)}: a URI cannot be opened; copy the checkpoint to this machine first'
        )
    path = pathlib.Path(written)
    file = path / LATEST if path.is_dir() else path
    if not file.is_file():
        inside = f' (a folder without {LATEST})' if path.is_dir() else ''
        raise CheckpointNotFoundError(f'no checkpoint {str(path)!r}{inside}; looked from {pathlib.Path.cwd()}')
    return file
