"""The file names in a run folder, and functions that create the folder and find a checkpoint."""

from __future__ import annotations

import json
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
    'latest_in',
    'make_folder',
    'stages_in',
    'trained_stages',
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


_SAVED = re.compile(r'(?:.*-)?ep(\d+)-ba(\d+)(?:-.*)?-rank\d+\.pt')


def checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the checkpoints that a run saved, whole or not, the latest first.

    Args:
        folder: The run folder.

    Returns:
        The files ``ep<epoch>-ba<batch>-rank<rank>.pt``, with whatever else ``save_filename`` puts into their names;
        empty if there are none, or no folder.
    """
    found = ((_SAVED.fullmatch(file.name), file) for file in folder.glob('*ep*-ba*-rank*.pt'))
    named = [((int(match[2]), int(match[1])), file) for match, file in found if match is not None and file.is_file()]
    return [file for _, file in sorted(named, reverse=True)]


def latest_in(folder: pathlib.Path) -> pathlib.Path:
    """The link to the latest checkpoint of a run folder.

    Args:
        folder: The run folder.

    Returns:
        ``latest-rank0.pt``, or what a ``save_latest_filename`` of its run called it; it may not exist.
    """
    usual = folder / LATEST
    if os.path.lexists(usual):
        return usual
    others = [file for file in folder.glob('*latest*-rank0.pt') if not _SAVED.fullmatch(file.name)]
    return max(others, key=lambda file: file.lstat().st_mtime, default=usual)


def checkpoint_file(written: str) -> pathlib.Path:
    """Finds a checkpoint file.

    Args:
        written: A checkpoint, or a run folder.

    Returns:
        The file; for a run folder, its latest checkpoint.

    Raises:
        CheckpointNotFoundError: If there is none.
        ConfigError: If it is a URI, or the folder of a chain of stages.
    """
    if '://' in written:
        raise ConfigError(
            f'{without_credentials(written)}: a URI cannot be opened; copy the checkpoint to this machine first'
        )
    path = pathlib.Path(written)
    file = latest_in(path) if path.is_dir() else path
    if not file.exists() and (stages := stages_in(path)) is not None:
        raise ConfigError(_of_stages(path, stages))
    if not file.is_file():
        inside = f' (a folder without {LATEST})' if path.is_dir() else ''
        raise CheckpointNotFoundError(f'no checkpoint {str(path)!r}{inside}; looked from {pathlib.Path.cwd()}')
    return file


def stages_in(folder: pathlib.Path) -> list[str] | None:
    """The names of the stages whose runs are below the folder of a chain, as its ``stages.json`` has them.

    Args:
        folder: A folder.

    Returns:
        The names in order; None if it is not the folder of a chain.

    Raises:
        ConfigError: If the file is damaged.
    """
    file = folder / STAGES_FILE
    if not file.is_file():
        return None
    try:
        stages = json.loads(file.read_text(encoding='utf-8'))['stages']
        return [pathlib.PurePath(stage['stage']).name for stage in stages]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'{file} is damaged: {error}. Give the folders of the stages themselves') from error


def trained_stages(folder: pathlib.Path) -> list[pathlib.Path] | None:
    """The folders of the stages of a chain that have a checkpoint, in order; None if it is not the folder of a chain.

    Raises:
        ConfigError: If none of its stages has one.
    """
    stages = stages_in(folder)
    if stages is None:
        return None
    found = [folder / name for name in stages if latest_in(folder / name).exists()]
    if not found:
        raise ConfigError(_of_stages(folder, stages))
    return found


def _of_stages(folder: pathlib.Path, stages: list[str]) -> str:
    """Says what to do with the folder of a chain where that of a run is expected."""
    trained = [str(folder / name) for name in stages if latest_in(folder / name).exists()]
    if trained:
        return f'{folder} is the folder of several runs, stages of one YAML: give that of one, {" or ".join(trained)}'
    return (
        f'{folder} is the folder of the stages {", ".join(stages)}, of which none has a checkpoint yet: '
        '`composer-kd train` with their YAML trains them'
    )
