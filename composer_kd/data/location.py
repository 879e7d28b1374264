"""Finds data sets on disk, and reports what to do if they are missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch.distributed

from composer_kd.errors import ConfigError, nearest

__all__ = ['ROOT_VARIABLE', 'check_split', 'data_root', 'open_torchvision']

ROOT_VARIABLE = 'COMPOSER_KD_DATA'
"""Name of the environment variable with the folder of all data sets."""


def data_root(root: str | Path | None = None) -> Path:
    """Returns the folder of the data sets.

    Args:
        root: The folder; None for the environment variable ``COMPOSER_KD_DATA``, or ``./data`` if it is not set.

    Returns:
        An absolute path, which need not exist.

    Example:
        >>> data_root('some/where').parts[-2:]
        ('some', 'where')
    """
    return Path(root or os.environ.get(ROOT_VARIABLE) or 'data').expanduser().absolute()


def check_split(split: str, splits: Sequence[str]) -> None:
    """Checks the name of a split.

    Args:
        split: The requested split.
        splits: The available splits.

    Raises:
        ConfigError: If the requested split is not available.

    Example:
        >>> check_split('train', ['train', 'test'])
        >>> check_split('tests', ['test'])
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: split: expected one of ['test'], got 'tests'; did you mean 'test'?
    """
    if split not in splits:
        raise ConfigError(f'split: expected one of {list(splits)}, got {split!r}{nearest(str(split), splits)}')


def existing_file(places: Sequence[Path]) -> Path:
    """The first of several places at which there is a file.

    Args:
        places: Where it may be, such as a path as written and the same below the root.

    Returns:
        The file.

    Raises:
        ConfigError: If there is none.
    """
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ConfigError(
            f'path: there is no file {" or ".join(map(str, places))}; another root is chosen by root=... or the '
            f'environment variable {ROOT_VARIABLE}.'
        )
    return found


def open_torchvision(source: Any, folder: str, root: str | Path | None, train: bool, download: bool) -> Any:
    """Opens one of torchvision's data sets, and downloads it first if requested.

    In distributed training, the first rank of each machine downloads while the others wait.

    Args:
        source: The class of the data set.
        folder: The folder of its files, relative to the root.
        root: See `data_root`.
        train: True for the training samples, False for the test samples.
        download: Whether to download missing files.

    Returns:
        An object of the class ``source``.

    Raises:
        ConfigError: If the files are missing or damaged, or the download fails.
    """
    place = data_root(root)
    turn: Any = nullcontext()
    if download and torch.distributed.is_available() and torch.distributed.is_initialized():
        from composer.utils import dist

        turn = dist.run_local_rank_zero_first()
    failure: Exception | None = None
    with turn:  # errors are raised after the block, since other ranks wait for its end
        try:
            return source(root=str(place), train=train, download=download)
        except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
            failure = error
    raise ConfigError(
        f'{source.__name__}: expected its files in {place / folder}, '
        f'got {type(failure).__name__} with download={download}: {failure}. '
        f'Set download=true where the network allows it, or put the folder {folder} into {place}; '
        f'another root is chosen by root=... or the environment variable {ROOT_VARIABLE}.'
    ) from failure
