"""What a run says when it ends before its time: where it stands, and how to go on."""

from __future__ import annotations

import contextlib
import errno
import gc
import pathlib
import shutil
from collections.abc import Iterator

import torch
from composer import Trainer

from composer_kd.config.schema import RunConfig
from composer_kd.errors import StorageError, stopped_by
from composer_kd.presentation.units import bytes_text
from composer_kd.runs.files import checkpoints
from composer_kd.runs.process import say

__all__ = ['closing', 'full_disk_said', 'release', 'where_it_stands']

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_TORCH = ('PytorchStreamWriter failed', 'unexpected pos', 'file write failed')
"""What torch.save says when a write fails, if it swallows the system's error."""


@contextlib.contextmanager
def full_disk_said(folder: pathlib.Path | None) -> Iterator[None]:
    """Names the folder whose disk is full, if that is why the block fails.

    Args:
        folder: The run folder; None for a run that saves nothing on this machine.

    Raises:
        StorageError: If a file cannot be written because there is no room for it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = _no_room(error)
        if folder is None or reason is None:
            raise
        with contextlib.suppress(OSError):
            reason = f'{reason}; {bytes_text(shutil.disk_usage(folder).free)} free'
        raise StorageError(
            f'the disk of {folder} is full, or a quota or the largest size of a file is reached ({reason}). Make room, '
            'save less (save_num_checkpoints_to_keep=1, a longer save_interval) or take another save_folder. Then go '
            'on with autoresume=true'
        ) from error


def _no_room(error: BaseException) -> str | None:
    """The system's words for a full disk, in an error or in one that it was raised from."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return str(cause.strerror or cause)
        if isinstance(cause, RuntimeError) and any(words in str(cause) for words in _OF_TORCH):
            return 'torch could not write a checkpoint'
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return None


@contextlib.contextmanager
def closing(trainer: Trainer) -> Iterator[None]:
    """Closes a trainer after the block.

    ``Trainer.close`` waits for all processes. If the block fails in one of them, the others are in the middle of a
    batch, and each would wait for the other: then only this process's own callbacks and loggers are closed.

    Args:
        trainer: The trainer.
    """
    try:
        yield
    except BaseException:
        trainer.engine.close()
        raise
    trainer.close()


def release(trainer: Trainer) -> None:
    """Frees what a closed trainer holds, above all on its device, so that the next run has the memory.

    Composer keeps the state of each Trainer until the process ends, and torch caches the models that were saved.

    Args:
        trainer: The trainer, after :func:`closing`.
    """
    state = trainer.state
    state.model.zero_grad(set_to_none=True)
    if state.fsdp_config is None:
        state.model.to('cpu')
    state.model = torch.nn.Identity()
    state.optimizers = state.schedulers = state.algorithms = state.callbacks = ()
    gc.collect()  # modules and hooks refer to each other


@contextlib.contextmanager
def where_it_stands(trainer: Trainer, config: RunConfig) -> Iterator[None]:
    """Says where a run stands and how to go on with it, if Ctrl-C or SIGTERM ends the block."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if stopped_by(error) is not None:
            say(_standing(trainer, config))
        raise


def _standing(trainer: Trainer, config: RunConfig) -> str:
    now = trainer.state.timestamp
    here = f'Stopped in epoch {int(now.epoch) + 1} after {int(now.batch):,} batches.'
    if config.folder is None:
        kept = 'saved nothing on this machine' if config.save_folder is None else f'saves into {config.save_folder}'
        return f'{here} The run {kept}.'
    saved = checkpoints(config.folder)
    if not saved:
        return (
            f'{here} No checkpoint is saved yet (save_interval: {config.save_interval}): add save_overwrite=true to '
            'the same command to start from the beginning.'
        )
    if config.save_weights_only:
        return f'{here} {saved[0]} holds the latest weights; without the optimizer (save_weights_only) it cannot go on.'
    how = 'autoresume=true save_overwrite=false' if config.save_overwrite else 'autoresume=true'
    return f'{here} The latest checkpoint is {saved[0]}: add {how} to the same command to go on from it.'
