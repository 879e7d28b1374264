"""What is trained beside the student: projectors and learned losses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from composer.core import State
from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.links import Link
from composer_kd.matching import Match
from composer_kd.students import EXTRAS

__all__ = ['Extras']

# Where DistributedDataParallel looks for names of parameters and buffers that are not its business.
_NOT_SENT = '_ddp_params_and_buffers_to_ignore'


class Extras:
    """A submodule of the student (``EXTRAS``) and groups of its optimizer.

    So they are trained, saved, resumed, and kept equal on all ranks as the student's own parameters are.
    """

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, Any]] = {}
        self._taken: dict[str, Link] = {}

    @property
    def are_trained(self) -> bool:
        """Whether there is any parameter among them."""
        return any(group['params'] for group in self._groups.values())

    def reserve(self, state: State, match: Match) -> None:
        """Makes room in the optimizer for what a match learns: an empty group, which has the match's learning rate.

        Composer's schedulers are made before shapes can be known, and must see the group.

        Raises:
            ConfigError: If there is not one optimizer, or the student is to be sharded.
        """
        if state.fsdp_config is not None:
            raise ConfigError(
                f'Match {match.name!r} learns something, which FSDP would shard with the student and leave sharded '
                'when it is used. Under FSDP use matches without projector and without a learned loss.'
            )
        if len(state.optimizers) != 1:
            raise ConfigError(
                f'Match {match.name!r} learns something, which the optimizer of the student trains: '
                f'expected one optimizer, got {len(state.optimizers)}'
            )
        optimizer = state.optimizers[0]
        optimizer.add_param_group({'params': [], **({} if match.lr is None else {'lr': match.lr})})
        group = optimizer.param_groups[-1]
        if 'initial_lr' in optimizer.param_groups[0]:  # Composer's own optimizers keep it from the beginning
            group['initial_lr'] = group['lr']
        self._groups[match.name] = group

    def take_in(self, state: State, link: Link) -> None:
        """Makes what a link learns a part of the student's module tree and of its optimizer.

        Raises:
            ConfigError: If the student has something of that name from elsewhere.
        """
        parts = link.learned()
        if not parts:
            return
        if not hasattr(state.model, EXTRAS):
            state.model.add_module(EXTRAS, nn.ModuleDict())
        extras = getattr(state.model, EXTRAS)
        name = re.sub(r'\W', '_', link.match.name) + ('' if link.teacher is None else f'_{link.teacher}')
        if name in extras:
            raise ConfigError(
                f'The student is already taught by something called {link.match.name!r}: rename the match, or call '
                'close() of the Distillation of an earlier run'
            )
        extras[name] = state.device.module_to_device(nn.ModuleDict(parts))
        self._groups[link.match.name]['params'].extend(extras[name].parameters())
        if link.remembers:
            # A memory begins alike on all ranks and is written alike: no need to send all of it at each forward pass.
            memory = [f'{EXTRAS}.{name}.{buffer}' for buffer, _ in extras[name].named_buffers()]
            setattr(state.model, _NOT_SENT, [*getattr(state.model, _NOT_SENT, ()), *memory])
        self._taken[name] = link

    def release(self, model: nn.Module) -> None:
        """Takes all of them out of the student again."""
        extras = getattr(model, EXTRAS, {})
        for name in self._taken:
            if name in extras:
                del extras[name]
        if hasattr(model, EXTRAS) and not len(extras):
            delattr(model, EXTRAS)
        self._taken.clear()

    def idle(self, used: Iterable[int | None]) -> Tensor | None:
        """Zero times all parameters that a batch does not use; ``None`` where it uses all.

        Without it, DistributedDataParallel would wait for gradients that never come; and momentum goes on with a
        gradient of zero, where it would rest without one, so it is added whatever the number of ranks.

        Args:
            used: The teachers of the links that the batch uses, ``None`` for their mean.
        """
        if not self._taken:
            return None
        used = set(used)
        unused = [
            parameter.sum()
            for link in self._taken.values()
            if link.teacher not in used
            for part in link.learned().values()
            for parameter in part.parameters()
        ]
        return torch.stack(unused).sum() * 0.0 if unused else None
