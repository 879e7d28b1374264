"""A frozen copy of the student, which follows it during training; base of the teachers that the student is itself."""

from __future__ import annotations

import copy
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from composer_kd.errors import TeacherError
from composer_kd.students import EXTRAS
from composer_kd.teachers.frozen import FrozenTeacher

__all__ = ['StudentCopy', 'bare', 'copy_of']


class StudentCopy:
    """A copy of the student that :meth:`end_batch` of a subclass changes.

    The copy has neither projectors nor learned losses. It is saved with the run, and restored in a resume.

    Args:
        name: Its name in messages, and in ``Match(..., teacher=name)``.

    Attributes:
        model: The copy; ``None`` before the run is prepared.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._teacher: FrozenTeacher | None = None
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None  # the parameters of copy and student

    @property
    def model(self) -> nn.Module | None:
        """The copy; ``None`` before the run is prepared."""
        return None if self._teacher is None else self._teacher.model

    def prepare(self, state: State) -> None:
        """Copies the student as it is now.

        Raises:
            TeacherError: If the student is sharded, so that no process has all of its weights.
        """
        if state.fsdp_config is not None:
            raise TeacherError(
                f'The teacher {self.name!r} is a copy of the student, and this student is sharded (FSDP): its parts '
                'cannot be averaged from outside. Train without parallelism_config, or take a trained teacher.'
            )
        self._pairs = None
        if self.model is None or _parts(self.model) != _parts(bare(state.model)):
            self._teacher = FrozenTeacher(copy_of(state.model), name=self.name)
        else:  # the same module, on whose layers there may be hooks
            self.follow(state, 1.0)
        self._prepared().prepare(state)

    def outputs(self, batch: Any, index: Tensor | None = None) -> Any:
        """The outputs of the copy for a microbatch."""
        return self._prepared().outputs(batch, index)

    def state_dict(self) -> dict[str, Any]:
        """The weights of the copy, and what a subclass adds."""
        return {'model': self._prepared().model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the copy.

        Args:
            state: From :meth:`state_dict`, of the same architecture.
        """
        self._prepared().model.load_state_dict(state['model'])

    def follow(self, state: State, share: float) -> None:
        """Moves the copy towards the student.

        Args:
            state: The state of the run.
            share: The share of the student in the new weights, 0 to 1. Integers, such as counters, are those of the
                student.
        """
        student = bare(state.model)
        if self._pairs is None:
            self._pairs = self._paired(student)
        # Buffers are looked up anew, because a module may replace its own.
        buffers = [(mine, other) for (_, mine), (_, other) in zip(_buffers(self._prepared().model), _buffers(student))]
        moving = [pair for pair in buffers if pair[0].is_floating_point()]
        ours, theirs = ([*weights, *(pair[side] for pair in moving)] for side, weights in enumerate(self._pairs))
        with torch.no_grad():
            if share == 1.0:
                torch._foreach_copy_(ours, theirs)
            else:
                torch._foreach_lerp_(ours, theirs, share)
            whole = [pair for pair in buffers if not pair[0].is_floating_point()]
            if whole:
                torch._foreach_copy_([mine for mine, _ in whole], [other for _, other in whole])
            if dist.get_world_size() > 1:
                # Ranks have statistics of their own until the next forward pass sends those of the first to all.
                for mine, _ in buffers:
                    dist.broadcast(mine, src=0)

    def _paired(self, student: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters of copy and student."""
        mine, others = _tensors(self._prepared().model), _tensors(student)
        changed = sorted({*mine} ^ {*others}) or [name for name in mine if mine[name].shape != others[name].shape]
        if changed:
            raise TeacherError(
                f'The teacher {self.name!r} is a copy of the student, which was changed after it was made: '
                f'{", ".join(changed[:3])}. Change the student before the Trainer is made.'
            )
        names = [name for name, _ in self._prepared().model.named_parameters()]
        return [mine[name] for name in names], [others[name] for name in names]

    def _prepared(self) -> FrozenTeacher:
        if self._teacher is None:
            raise TeacherError(f'The teacher {self.name!r} has no student yet: call prepare(state) first')
        return self._teacher

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.name!r})'


def bare(student: nn.Module) -> nn.Module:
    """The student inside what compiles it or averages its gradients over ranks."""
    student = getattr(student, '_orig_mod', student)  # compiled
    return student.module if isinstance(student, DistributedDataParallel) else student


def copy_of(student: nn.Module) -> nn.Module:
    """A copy without auxiliary modules, gradients and hooks of others; of a compiled student an eager one."""
    student = bare(student)
    left_out = {id(part): None for name, part in student.named_modules() if name.split('.')[-1] == EXTRAS}
    memo: dict[int, Any] = {**left_out, **_results_in(student)}
    twin = copy.deepcopy(student, memo)
    for part in twin.modules():
        part._modules.pop(EXTRAS, None)
        # What Composer takes from a compiled model, and puts there, computes with the weights of the student.
        if not hasattr(part, '_orig_mod') and hasattr(vars(part).get('forward'), '_torchdynamo_orig_callable'):
            del part.forward
    for parameter in twin.parameters():
        parameter.grad = None
    return twin


def _results_in(student: nn.Module) -> dict[int, Tensor]:
    """What modules keep of their last forward pass, without its graph, with which torch copies no tensor."""
    kept = (value for part in student.modules() for value in tree_leaves(vars(part)) if isinstance(value, Tensor))
    return {id(value): value.detach().clone() for value in kept if value.grad_fn is not None}


def _parts(module: nn.Module) -> list[tuple[str, type, torch.Size | None]]:
    """The architecture: the modules by their names, with the shapes of their weights."""
    named = (
        (name, type(part), getattr(getattr(part, 'weight', None), 'shape', None))
        for name, part in module.named_modules()
    )
    return [part for part in named if EXTRAS not in part[0].split('.')]


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in module.named_buffers() if EXTRAS not in name.split('.')]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor for name, tensor in named.items() if EXTRAS not in name.split('.')}
