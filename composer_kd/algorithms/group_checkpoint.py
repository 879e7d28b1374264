"""The nets of all groups of ranks in a checkpoint, of which Composer saves rank 0's net alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from composer.core import State
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from composer_kd.algorithms.rank_groups import RankGroups, tensors_of
from composer_kd.errors import CheckpointError

__all__ = ['GroupCheckpoint']


class GroupCheckpoint:
    """Saves and restores what each group of ranks trains: its net, optimizers and gradient scaler, and stale copies.

    Args:
        groups: The groups of ranks.
    """

    def __init__(self, groups: RankGroups) -> None:
        self._groups = groups
        self._loaded: Mapping[str, Any] = {}

    def save(self, state: State, stale: Mapping[int, nn.Module]) -> dict[str, Any]:
        """Collects the state of all groups; a collective call.

        Args:
            state: The state of the run.
            stale: The copies that this rank has of other groups' nets, by group; empty before the first exchange.

        Returns:
            On rank 0 the state of all groups; on other ranks, which save nothing, the number of groups.
        """
        before = (self._groups.own - 1) % self._groups.count  # so that each copy is sent once
        mine = {
            'net': tensors_of(_bare(state.model)),
            'optimizers': [optimizer.state_dict() for optimizer in state.optimizers],
            'scaler': None if state.scaler is None else state.scaler.state_dict(),
            'copy': tensors_of(stale[before]) if before in stale else None,
        }
        found = self._groups.gather(tree_map(_on_host, mine) if self._groups.leads else None)
        if found is None:
            return {'groups': self._groups.count}
        copies = {(number - 1) % self._groups.count: one.pop('copy') for number, one in enumerate(found)}
        # What group 0 trains is in the checkpoint as that of any run.
        nets = {number: one for number, one in enumerate(found) if number}
        return {'groups': self._groups.count, 'nets': nets, 'stale': copies if stale else {}}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Takes the state of a checkpoint, for :meth:`restore`.

        Raises:
            CheckpointError: If it is of another number of groups.
        """
        if saved.get('groups') != self._groups.count:
            raise CheckpointError(
                f'The checkpoint is of CoDistillation(groups={saved.get("groups")}), this run has '
                f'groups={self._groups.count}: nets would be lost or missing. Resume with the same groups; each may '
                'have more or fewer ranks.'
            )
        self._loaded = saved

    def restore(self, state: State, copies: Mapping[int, nn.Module]) -> bool:
        """Puts what was loaded into this rank's net and optimizers, and into its copies of the others.

        Args:
            state: The state of the run, into which Composer has loaded group 0.
            copies: The copies of the other groups' nets.

        Returns:
            Whether stale copies were restored.
        """
        loaded, self._loaded = self._loaded, {}
        mine = loaded.get('nets', {}).get(self._groups.own)
        if mine is not None:
            _overwrite(_bare(state.model), mine['net'])
            for optimizer, one in zip(state.optimizers, mine['optimizers']):
                optimizer.load_state_dict(one)
            if mine['scaler'] and state.scaler is not None:
                state.scaler.load_state_dict(mine['scaler'])
        stale = loaded.get('stale', {})
        for number, net in copies.items() if stale else ():
            _overwrite(net, stale[number])
        return bool(stale)


def _bare(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _on_host(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def _overwrite(net: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors_of(net).items():
            tensor.copy_(values[name])
