"""The base model of a student with adapters, as its teacher: the student itself, with the adapters switched off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from composer.core import State
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from composer_kd.errors import TeacherError
from composer_kd.features.calling import choose_call, settings_of, unwrapped
from composer_kd.features.modes import evaluating
from composer_kd.students import EXTRAS
from composer_kd.teachers.frozen import FrozenTeacher
from composer_kd.teachers.student_copy import bare

__all__ = ['BaseModelTeacher', 'adapters_of', 'adapters_off']


_OFF = 'disable_adapters'


class BaseModelTeacher:
    """The base model of a student with adapters (LoRA), as its teacher.

    The student runs once more, with all its adapters switched off, without gradients and in eval mode. No second copy
    of the weights is in memory. What the student learns is held near to what its base says already, and matches of
    layers compare the same layers with and without adapters.

    Adapters are the layers of the peft library that can be switched off: LoRA and its kin, with ``modules_to_save``.
    All that trains must be in them; else the base model would change with the student.

    Args:
        name: Its name in messages, and in ``Match(..., teacher=name)``.

    Attributes:
        model: The student; ``None`` before the run is prepared.
        is_student: True: its module is the student itself.

    Raises:
        TeacherError: If the student has no adapters, trains weights or statistics of its base too, has merged adapters,
            or is sharded.

    Example:
        >>> from composer_kd import Distillation, KLDivergence
        >>> Distillation(BaseModelTeacher(), KLDivergence(temperature=2.0)).teachers
        [BaseModelTeacher()]
    """

    is_student = True

    def __init__(self, name: str = 'base') -> None:
        self.name = name
        self.model: nn.Module | None = None
        self._settings: dict[str, Any] | None = None
        self._parts: tuple[list[nn.Module], list[Any]] | None = None  # all modules, and the layers with adapters

    def prepare(self, state: State) -> None:
        """Checks that the student has a base model that stays as it is."""
        student = bare(state.model)
        if state.fsdp_config is not None or state.tp_config is not None:
            raise TeacherError(
                f'The teacher {self.name!r} runs the student a second time in a step, for which the parts of a sharded '
                'student (FSDP) are not gathered. Train without parallelism_config, or give a copy of the base model '
                'as the teacher.'
            )
        parts = adapters_of(student)
        if not parts:
            raise TeacherError(
                f'The teacher {self.name!r} is the student with its adapters switched off, and this student has none '
                'in its layers. Give it some: peft.get_peft_model(net, peft.LoraConfig(...)), or '
                'HuggingFaceModel(net, peft_config=...). Without adapters: a copy of it, '
                'FrozenTeacher(copy.deepcopy(net)).'
            )
        if any(getattr(part, 'merged', False) for part in parts.values()):
            raise TeacherError(
                f'The adapters of the student are merged into its base, which the teacher {self.name!r} needs as it '
                'was: call unmerge_adapter() first.'
            )
        changing = _changing(student, parts)
        if changing:
            raise TeacherError(
                f'The teacher {self.name!r} is the student with its adapters switched off, and {changing[0]!r} of '
                f'{len(changing)} changes in training and is in no adapter, so the teacher would change too. Freeze it '
                '(requires_grad_(False)), or let it train beside the base: modules_to_save of the peft config. '
                '(With bias="all" or "lora_only" the biases of the base are trained: use "none".)'
            )
        self.model, self._settings, self._parts = student, settings_of(unwrapped(student)) or None, None

    def outputs(self, batch: Any, index: Tensor | None = None) -> Any:
        """The outputs of the base model for a microbatch.

        Args:
            batch: The microbatch as models take it; stays unchanged.
            index: Has no effect.
        """
        if self.model is None:
            raise TeacherError(f'The teacher {self.name!r} has no student yet: call prepare(state) first')
        if self._parts is None:  # looked up once, because this takes long in a large model
            self._parts = list(self.model.modules()), list(adapters_of(self.model).values())
        modules, adapters = self._parts
        with torch.no_grad(), evaluating(modules), adapters_off(adapters):
            return choose_call(self.model, batch, whose=f'The teacher {self.name!r}', settings=self._settings)(batch)

    end_batch = FrozenTeacher.end_batch

    def __repr__(self) -> str:
        return 'BaseModelTeacher()'


@contextlib.contextmanager
def adapters_off(adapters: Iterable[Any]) -> Iterator[None]:
    """Switches layers with adapters off; afterwards all are as before, and so is what requires gradients.

    Args:
        adapters: From :func:`adapters_of`.
    """
    parts = [part for part in adapters if not part.disable_adapters]
    # Switching adapters off and on makes those in use trainable, also where the user has frozen them.
    flags = [(parameter, parameter.requires_grad) for part in parts for parameter in part.parameters()]
    try:
        for part in parts:
            part.enable_adapters(False)
        yield
    finally:
        for part in parts:
            part.enable_adapters(True)
        for parameter, requires_grad in flags:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)


def adapters_of(model: nn.Module) -> dict[str, Any]:
    """The layers with adapters by their names: those that can be switched off, as layers of the peft library say.

    Example:
        >>> adapters_of(nn.Sequential(nn.Linear(2, 3)))
        {}
    """
    # Whole models of transformers have a method of this name.
    found = {name: part for name, part in model.named_modules() if isinstance(getattr(part, _OFF, None), bool)}
    return {name: part for name, part in found.items() if callable(getattr(part, 'enable_adapters', None))}


def _changing(student: nn.Module, parts: dict[str, Any]) -> list[str]:
    """The names of what training changes while the adapters are off: weights, and statistics of a BatchNorm."""
    trained = [name for name, parameter in student.named_parameters() if parameter.requires_grad]
    with adapters_off(parts.values()):
        active = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    norms = [
        name
        for name, part in student.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None and part.momentum != 0.0
        if not any(name.startswith(f'{adapted}.') for adapted in parts)
    ]
    found = [name for name in trained if name in active] + norms
    return [name for name in found if EXTRAS not in name.split('.')]
