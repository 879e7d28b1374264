"""Tells whether a run has finished, and reads what it noted at its end."""

from __future__ import annotations

import contextlib
import json
import pathlib
from typing import Any

from composer import Trainer
from composer.core import Time

from composer_kd.callbacks.history import read_history
from composer_kd.config.schema import RunConfig
from composer_kd.errors import ConfigError
from composer_kd.runs.files import METRICS_FILE
from composer_kd.runs.resume import saved_settings

__all__ = ['is_finished', 'last_losses', 'noted_metrics']


def is_finished(trainer: Trainer, config: RunConfig) -> bool:
    """Tells whether there is nothing left to train.

    Args:
        trainer: The trainer, with the checkpoint loaded.
        config: The settings of the run.

    Returns:
        True if its time is over; or if it noted final metrics at this checkpoint, and is not to become longer. A
        checkpoint of the last batch is saved before the epoch has ended, and a callback may end a run early.
    """
    end = trainer.state.max_duration
    if end is not None and trainer.state.timestamp.get(end.unit) >= end:
        return True
    noted = noted_metrics(trainer, config)
    if not noted or config.folder is None or end is None:
        return False
    before = (saved_settings(config.folder) or {}).get('max_duration')
    return (
        _length(before) == _length(config.max_duration) or noted.get(f'time/{_UNITS[end.unit.value]}', 0) >= end.value
    )


def _length(duration: Any) -> str | None:
    return None if duration is None else Time.from_input(duration, 'ep').to_timestring()


_UNITS = {'ep': 'epoch', 'ba': 'batch', 'sp': 'sample'}


def noted_metrics(trainer: Trainer, config: RunConfig) -> dict[str, float]:
    """Reads the final metrics of a finished run.

    Args:
        trainer: The trainer, with the checkpoint loaded.
        config: The settings of the run.

    Returns:
        The content of its ``metrics.json``; empty if there is none, or if it is damaged or of another checkpoint.
    """
    file = config.folder / METRICS_FILE if config.folder is not None and config.autoresume else None
    with contextlib.suppress(ValueError, OSError):  # a damaged file
        noted = json.loads(file.read_text(encoding='utf-8')) if file is not None and file.is_file() else None
        if isinstance(noted, dict) and noted.get('time/batch') == int(trainer.state.timestamp.batch):
            return noted
    return {}


def last_losses(folder: pathlib.Path | None) -> dict[str, float]:
    """Reads the losses of the last batch from the history of a run, because a checkpoint contains none.

    Args:
        folder: The run folder.

    Returns:
        The losses by name; empty without a history.
    """
    with contextlib.suppress(ConfigError):
        for record in reversed(read_history(folder) if folder is not None else []):
            losses = {name: value for name, value in record.items() if name.startswith('loss/')}
            if losses:
                return losses
    return {}
