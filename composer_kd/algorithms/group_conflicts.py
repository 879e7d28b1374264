"""Checks for runs in which groups of ranks train nets of their own."""

from __future__ import annotations

import warnings

import torch
from composer.algorithms import EMA, SAM, SWA, LayerFreezing
from composer.callbacks import EarlyStopper, ThresholdStopper
from composer.core import State, Time
from composer.utils import dist
from torch import nn

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.algorithms.rank_groups import send, tensors_of
from composer_kd.algorithms.trainer_settings import refuse_weights_by_tokens
from composer_kd.errors import ConfigError
from composer_kd.schedules import Window

__all__ = ['refuse_beside_groups', 'warn_of_equal', 'warn_of_no_exchange']

_ONE_NET = {
    SWA: 'it averages the weights on each rank, and checkpoints hold the average of rank 0 alone',
    EMA: 'it averages the weights on each rank, and checkpoints hold the average of rank 0 alone',
    SAM: "it wraps the optimizer, and checkpoints do not hold the inner optimizer's state",
    LayerFreezing: 'it takes parameters out of the optimizer, and a run with it cannot be resumed',
}


def refuse_beside_groups(state: State, algorithm: DistillationAlgorithm) -> None:
    """Checks that nothing in the run needs the same net on all ranks.

    Args:
        state: The state of the run.
        algorithm: The algorithm whose groups of ranks train nets of their own.

    Raises:
        ConfigError: If the model is sharded, another algorithm sets the loss or keeps a state that checkpoints hold for
            rank 0 alone, a layer takes statistics from all ranks, a callback stops a rank by its train metrics, or the
            Trainer weights microbatches by their tokens.
    """
    name = type(algorithm).__name__
    refuse_weights_by_tokens(name)
    if state.fsdp_config is not None or state.tp_config is not None:
        raise ConfigError(
            f'{name}: parallelism_config shards one net over all ranks, and each group of ranks has a net of its own. '
            'Train without it, with nets that fit on a device.'
        )
    if any(isinstance(module, nn.SyncBatchNorm) for module in state.model.modules()):
        raise ConfigError(
            f'{name}: SyncBatchNorm takes its statistics from all ranks, and so from the nets of other groups too. '
            'Build the student with BatchNorm.'
        )
    for other in state.algorithms:
        what = type(other).__name__
        if isinstance(other, DistillationAlgorithm) and other is not algorithm:
            raise ConfigError(f'{name} and {what} both set the loss of a batch: use one of the two.')
        if getattr(other, 'interpolate_loss', False):
            raise ConfigError(
                f'{name} and {what}(interpolate_loss=True) both set the loss: use interpolate_loss=False.'
            )
        for kind, reason in _ONE_NET.items():
            if isinstance(other, kind):
                raise ConfigError(f'{name} and {what}: {reason}. Leave {what} out.')
    for callback in state.callbacks:
        if isinstance(callback, (EarlyStopper, ThresholdStopper)) and callback.dataloader_label == 'train':
            raise ConfigError(
                f'{name} and {type(callback).__name__}: train metrics differ between groups, and the ranks of one '
                'would stop while the others wait for them. Stop by the metrics of an evaluator.'
            )


def warn_of_equal(state: State) -> None:
    """Warns if all groups start from the same weights; a collective call.

    Args:
        state: The state of the run, with this rank's net.
    """
    tensors = list(tensors_of(state.model).values())
    first = [tensor.detach().clone() for tensor in tensors]
    send(first, 0)
    differ = torch.tensor(any(not torch.equal(*both) for both in zip(first, tensors)), dtype=torch.uint8)
    differ = state.device.tensor_to_device(differ)
    dist.all_reduce(differ, reduce_operation='MAX')
    if not differ:
        warnings.warn(
            'All groups start from the same weights, and only their data tells them apart. For weights of their own, '
            'seed each group by itself before the model is built: torch.manual_seed(seed + algorithm.group).',
            stacklevel=2,
        )


def warn_of_no_exchange(state: State, every: Time, window: Window) -> None:
    """Warns if the run, or the window, ends before the nets are exchanged.

    Args:
        state: The state of the run.
        every: The time between exchanges, in batches or epochs.
        window: The window in which the nets learn from one another.
    """
    if window.ends_by(every, state):
        end = f'end_dur is {window.end.to_timestring()}'
        if Window().ends_by(every, state) and state.max_duration is not None:
            end = f'the run ends at {state.max_duration.to_timestring()}'
        warnings.warn(
            f'The nets never learn from one another: exchange_every is {every.to_timestring()}, {end}.', stacklevel=2
        )
