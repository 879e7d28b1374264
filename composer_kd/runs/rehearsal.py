"""Checks a run up to its first batch, without training or writing anything: ``composer-kd train ... --dry-run``."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from composer import Trainer
from composer.core import TimeUnit
from composer.utils import dist

from composer_kd.config.effects import QUIET
from composer_kd.config.schema import RunConfig
from composer_kd.errors import Attempts, ConfigError
from composer_kd.presentation.units import number_text
from composer_kd.runs.build import build_trainer, check_components
from composer_kd.runs.ending import closing, release
from composer_kd.runs.folder import check_files, check_remote, check_unused
from composer_kd.runs.process import without_remarks
from composer_kd.runs.remote import check_uploaders
from composer_kd.runs.resume import check_settings, resumes_from

__all__ = ['ALONE', 'check_place', 'plan', 'rehearse_run']

ALONE: dict[str, Any] = {**QUIET, 'callbacks': {}, 'loggers': {}}
"""Settings of a run that is built to be checked: it saves, prints and logs nothing."""


def rehearse_run(config: RunConfig) -> str:
    """Builds everything that a run needs, and reports what is wrong; nothing is trained, saved or logged.

    Data sets and pretrained weights that are named and not on this machine are fetched, as the run would.

    Args:
        config: The checked configuration.

    Returns:
        What would be trained, in a sentence.

    Raises:
        ComposerKDError: If data, a checkpoint, the folder or a setting is wrong; lists all that can be told at once.

    Example:
        >>> from composer_kd.config.load import load_config
        >>> rehearse_run(load_config('yamls/digits/student.yaml', ['precision=fp32', 'save_folder=null']))
        'digits-student: 630 batches of 64 samples, 21,690 parameters that train, in fp32 on the CPU; nothing is saved'
    """
    attempt = Attempts()
    attempt(check_place, config.folder)
    for check in (check_files, check_unused, check_remote, check_uploaders, check_settings, check_components):
        attempt(check, config)
    attempt.finish()
    trial = dataclasses.replace(config, **ALONE, load_path=_checkpoint(config))
    with without_remarks():
        trainer = build_trainer(trial)
        with closing(trainer):
            told = plan(config, trainer)
        release(trainer)
    return told


def _checkpoint(config: RunConfig) -> str | None:
    """Where the run would go on from, or start."""
    found = None
    if config.autoresume and config.folder is not None and config.sharding is None and dist.get_world_size() == 1:
        found = resumes_from(config.folder)
    return config.load_path if found is None else str(found)


def check_place(folder: pathlib.Path | None) -> None:
    """Checks that a folder can be made and written to, without making it.

    Args:
        folder: The folder; None checks nothing.

    Raises:
        ConfigError: If it cannot.
    """
    if folder is None:
        return
    place = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not place.is_dir():
        raise ConfigError(f'save_folder: {folder} cannot be used: {place} is no folder')
    if not os.access(place, os.W_OK):
        raise ConfigError(f'save_folder: {folder} cannot be used: no permission to write into {place}')


def plan(config: RunConfig, trainer: Trainer) -> str:
    """Says what a run would train.

    Args:
        config: Its settings.
        trainer: The Trainer, as it was built.
    """
    state = trainer.state
    trained = sum(one.numel() for one in state.model.parameters() if one.requires_grad)
    where = 'the CPU' if state.device.name == 'cpu' else state.device.name
    processes = f' in {dist.get_world_size()} processes' if dist.get_world_size() > 1 else ''
    done = int(state.timestamp.batch)
    parts = [
        _length(config, trainer),
        f'{number_text(trained)} parameters that train',
        f'in {state.precision.value} on {where}{processes}',
    ]
    kept = config.remote_folder or config.folder
    return (
        f'{config.run_name}: {", ".join(parts)}; '
        + (f'goes on after batch {done:,}; ' if done else '')
        + ('nothing is saved' if kept is None else f'saved in {kept}')
    )


def _length(config: RunConfig, trainer: Trainer) -> str:
    """The length of a run, in batches where it is written in batches or epochs."""
    length, duration = trainer.state.dataloader_len, trainer.state.max_duration
    assert duration is not None
    size = config.global_train_batch_size
    if duration.unit == TimeUnit.SAMPLE or length is None:
        return f'{duration.value:,} samples in batches of {size:,}'
    batches = duration.value * (int(length) if duration.unit == TimeUnit.EPOCH else 1)
    return f'{batches:,} batches of {size:,} samples'
