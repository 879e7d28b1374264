"""What trackers need beside Composer's loggers, for a run that goes on from a checkpoint to be one run in them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from composer import Trainer
from composer.loggers import LoggerDestination, TensorboardLogger, WandBLogger
from composer.utils import dist

from composer_kd.config.schema import RunConfig
from composer_kd.runs.files import LATEST

__all__ = ['looks_for_checkpoint', 'mark_resume']


def looks_for_checkpoint(config: RunConfig, loggers: Iterable[LoggerDestination]) -> bool:
    """Whether Composer is to look for a checkpoint to go on from, its ``autoresume``.

    Where none lies in the folder it asks the loggers for one, and Weights & Biases raises an error if it is offline: at
    the very first start.

    Args:
        config: The checked configuration.
        loggers: The loggers of the run.
    """
    offline = any(isinstance(one, WandBLogger) and _is_offline(one) for one in loggers)
    if not offline or config.folder is None:
        return config.autoresume
    return config.autoresume and (config.folder / LATEST).exists()


def _is_offline(logger: WandBLogger) -> bool:
    mode = logger._init_kwargs.get('mode') or os.environ.get('WANDB_MODE', 'online')
    return mode in ('offline', 'dryrun', 'disabled')


def mark_resume(trainer: Trainer) -> None:
    """Lets TensorBoard drop what a killed run logged after the checkpoint that this one goes on from.

    These steps are trained again. The step of the checkpoint itself stays, because the evaluation before it is there.

    Args:
        trainer: The trainer, which has loaded its checkpoint.
    """
    done = trainer.state.timestamp.batch.value
    loggers = [one for one in trainer.logger.destinations if isinstance(one, TensorboardLogger)]
    writers = [one.writer for one in loggers if not one.rank_zero_only or dist.get_global_rank() == 0]
    if not done or not writers:
        return
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    for writer in writers:
        assert writer is not None  # from the start of the run to its end
        writer._get_file_writer().add_event(Event(session_log=SessionLog(status=SessionLog.START)), done + 1)
