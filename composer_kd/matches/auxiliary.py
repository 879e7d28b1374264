"""The auxiliary modules of a run: projectors, learned losses and peers, trained together with the student."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from composer.core import State
from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.students import EXTRAS

__all__ = ['AuxiliaryModules', 'Learner', 'Owner']

# The attribute in which DistributedDataParallel looks for parameters and buffers that it must not synchronise.
_NOT_SENT = '_ddp_params_and_buffers_to_ignore'


class Owner(Protocol):
    """What a user wrote that trains parameters beside the student: a match, or a peer.

    Attributes:
        name: Its name.
        lr: Its learning rate; ``None`` for that of the student.
    """

    name: str
    lr: float | None


class Learner(Protocol):
    """Something that holds modules which are trained beside the student, such as a loss term."""

    @property
    def owner(self) -> Owner:
        """What a user wrote for it."""

    @property
    def slot(self) -> str:
        """Its key among the auxiliary modules."""

    @property
    def number(self) -> int | None:
        """The number of the teacher without which it rests in a batch; ``None`` if it never does."""

    @property
    def remembers(self) -> bool:
        """Whether its buffers are a memory that is equal on all ranks."""

    def learned(self) -> dict[str, nn.Module]:
        """The modules by their names."""

    def use(self, parts: Mapping[str, nn.Module]) -> None:
        """Takes other modules in the place of those that :meth:`learned` returned."""


class AuxiliaryModules:
    """The auxiliary modules of a run, in a submodule of the student (``EXTRAS``) and in its optimizer.

    They are therefore trained, saved, resumed and synchronised between ranks as the student's own parameters are.
    """

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, Any]] = {}
        self._taken: dict[str, tuple[Learner, list[nn.Parameter]]] = {}
        self._homes: dict[str, nn.ModuleDict] = {}  # the modules of each, in the student
        self._optimizer: torch.optim.Optimizer | None = None
        self._only_group: dict[str, Any] | None = None

    @property
    def taken(self) -> bool:
        """Whether the student holds any auxiliary module."""
        return bool(self._taken)

    @property
    def are_trained(self) -> bool:
        """Whether any auxiliary module has parameters."""
        return any(own for _, own in self._taken.values())

    def drop_leftovers(self, state: State) -> None:
        """Removes what an earlier run left in the student: at ``INIT`` no run has registered its own yet.

        Their parameters leave the optimizer too, which was often made from all of the student's parameters.

        Args:
            state: The state of the run.
        """
        left = getattr(state.model, EXTRAS, None)
        if left is None:
            return
        names = ', '.join(left.keys())
        warnings.warn(
            f'The student still holds what was trained with it in an earlier run ({names}), and starts without it. '
            'close() of the Distillation of that run removes it.',
            stacklevel=2,
        )
        _remove_parameters(state.optimizers, left.parameters())
        _remove_from(state.model, list(left.keys()))

    def reserve(self, state: State, owner: Owner) -> None:
        """Reserves a parameter group of the optimizer for the auxiliary modules of a match or peer.

        This is the optimizer's only group, or a new one if it has its own learning rate or the optimizer has
        several groups. Composer creates its schedulers before the shapes of features are known. A new group is
        therefore added now, still empty, so that they see it.

        Args:
            state: The state of the run.
            owner: A match with parameters to train, or a peer.

        Raises:
            ConfigError: If the run does not have exactly one optimizer, or uses FSDP.
        """
        if state.fsdp_config is not None:
            raise ConfigError(
                f'{_called(owner)} has parameters to train, which FSDP would shard with the student and leave sharded '
                'when it is used. Under FSDP use matches without projector and without a learned loss.'
            )
        if len(state.optimizers) != 1:
            raise ConfigError(
                f'{_called(owner)} has parameters to train, which the optimizer of the student trains: '
                f'expected one optimizer, got {len(state.optimizers)}'
            )
        optimizer = state.optimizers[0]
        if self._optimizer is not optimizer:
            self._optimizer = optimizer
            self._only_group = optimizer.param_groups[0] if len(optimizer.param_groups) == 1 else None
        if owner.lr is None and self._only_group is not None:
            self._groups[owner.name] = self._only_group
            return
        optimizer.add_param_group({'params': [], **({} if owner.lr is None else {'lr': owner.lr})})
        first, group = optimizer.param_groups[0], optimizer.param_groups[-1]
        for key in first.keys() - group.keys():  # set there by schedulers, and by Composer's own optimizers
            group[key] = group['lr'] if key == 'initial_lr' else first[key]
        self._groups[owner.name] = group

    def follow_schedulers(self, state: State) -> None:
        """Adds the new groups to torch's schedulers, which were created before them; Composer's need no change."""
        groups = self._optimizer.param_groups if self._optimizer is not None else []
        waiting: list[Any] = list(state.schedulers)
        while waiting:
            scheduler = waiting.pop()
            waiting += getattr(scheduler, '_schedulers', [])
            for name in ('base_lrs', 'max_lrs', 'lr_lambdas'):
                values = getattr(scheduler, name, None)
                if isinstance(values, list):
                    missing = groups[len(values) :]
                    values += [g.get('initial_lr', g['lr']) if name == 'base_lrs' else values[0] for g in missing]

    def take_in(self, state: State, learner: Learner) -> None:
        """Registers the auxiliary modules of a loss term or peer in the student's module tree and in its optimizer.

        Args:
            state: The state of the run.
            learner: The loss term or peer; its modules are built.

        Raises:
            ConfigError: If the optimizer already has one of their parameters, or the student has a submodule of that
                name.
        """
        parts = learner.learned()
        if not parts:
            return
        own = list(dict.fromkeys(p for part in parts.values() for p in part.parameters()))
        known = {id(p) for group in state.optimizers[0].param_groups for p in group['params']}
        if any(id(parameter) in known for parameter in own):
            raise ConfigError(
                f'What {_called(learner.owner)} learns is in the optimizer already, and would be stepped twice. Leave '
                'it out there: it is added. (Two matches must not share it either.)'
            )
        if not hasattr(state.model, EXTRAS):
            state.model.add_module(EXTRAS, nn.ModuleDict())
        extras = getattr(state.model, EXTRAS)
        name = learner.slot
        if name in extras:
            raise ConfigError(
                f'The student is already taught by something called {learner.owner.name!r} in this run: rename one'
            )
        extras[name] = state.device.module_to_device(nn.ModuleDict(parts))
        self._groups[learner.owner.name]['params'].extend(own)
        if learner.remembers:
            # Memories start equal and are updated equally on all ranks: DDP need not broadcast them at each forward.
            memory = [f'{EXTRAS}.{name}.{buffer}' for buffer, _ in extras[name].named_buffers()]
            setattr(state.model, _NOT_SENT, [*getattr(state.model, _NOT_SENT, ()), *memory])
        self._taken[name] = learner, own
        self._homes[name] = extras[name]

    def follow_replacements(self) -> None:
        """Makes the loss terms use what stands in the student now: other algorithms may have replaced modules there."""
        for name, (learner, _) in self._taken.items():
            parts = dict(self._homes[name].items())
            learner.use(parts)
            self._taken[name] = learner, list(dict.fromkeys(p for part in parts.values() for p in part.parameters()))

    def release(self, model: nn.Module) -> None:
        """Removes all auxiliary modules from the student, and their parameters from the optimizer."""
        if self._optimizer is not None:
            new = {id(group) for group in self._groups.values() if group is not self._only_group}
            self._optimizer.param_groups[:] = [g for g in self._optimizer.param_groups if id(g) not in new]
            _remove_parameters([self._optimizer], [parameter for _, own in self._taken.values() for parameter in own])
        _remove_from(model, list(self._taken))
        self._groups.clear()
        self._taken.clear()
        self._homes.clear()

    def idle(self, used: Iterable[int | None]) -> Tensor | None:
        """Zero-valued sum over the parameters this batch leaves unused; ``None`` if every parameter is used.

        With it, DistributedDataParallel sees a gradient for each parameter. An optimizer with momentum updates a
        parameter whose gradient is zero and skips one without a gradient. The sum is therefore added on a single rank
        too, so that results do not depend on the number of ranks.

        Args:
            used: The teachers' numbers in the pool whose loss terms the batch uses, with ``None`` for terms on the mean
                of their logits.

        Returns:
            A scalar tensor, or ``None``.
        """
        if not self._taken:
            return None
        used = set(used)
        unused = [p.sum() for learner, own in self._taken.values() if learner.number not in used for p in own]
        return torch.stack(unused).sum() * 0.0 if unused else None


def _called(owner: Owner) -> str:
    return f'{type(owner).__name__} {owner.name!r}'


def _remove_parameters(optimizers: Iterable[torch.optim.Optimizer], parameters: Iterable[Tensor]) -> None:
    """Removes parameters and their state from optimizers."""
    gone = {id(parameter): parameter for parameter in parameters}
    for optimizer in optimizers:
        for parameter in gone.values():
            optimizer.state.pop(parameter, None)
        for group in optimizer.param_groups:
            group['params'] = [parameter for parameter in group['params'] if id(parameter) not in gone]


def _remove_from(model: nn.Module, names: Iterable[str]) -> None:
    """Removes auxiliary modules from a student, with every trace of them once none is left."""
    extras = getattr(model, EXTRAS, None)
    if extras is None:
        return
    for name in names:
        if name in extras:
            del extras[name]
    if not len(extras):
        delattr(model, EXTRAS)
    unsent = [name for name in getattr(model, _NOT_SENT, ()) if not _is_gone(extras, name)]
    if unsent:
        setattr(model, _NOT_SENT, unsent)
    elif hasattr(model, _NOT_SENT):
        delattr(model, _NOT_SENT)


def _is_gone(extras: nn.ModuleDict, path: str) -> bool:
    """Whether a path of the student led to an auxiliary module that was removed."""
    first, _, rest = path.partition('.')
    return first == EXTRAS and rest.partition('.')[0] not in extras
