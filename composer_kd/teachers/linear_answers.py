"""Asks teachers for hidden states with the linear head that makes their logits, where they have them."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from composer_kd.errors import ConfigError
from composer_kd.features.linear_head import LinearHead
from composer_kd.losses.linear_logits import LinearLogits
from composer_kd.teachers.base import Teacher, module_of
from composer_kd.teachers.placement import is_sharded

__all__ = ['LinearAnswer', 'LinearAnswers']


@dataclass(frozen=True)
class LinearAnswer:
    """Outputs of a teacher whose logits are hidden states with a head."""

    logits: LinearLogits


class LinearAnswers:
    """Asks one teacher for hidden states with its head in the place of logits.

    A teacher with a method ``linear_outputs`` is asked by it. Of another whose module is a language model of
    transformers, the head is kept from making logits while it runs. Others give what they always give.

    Args:
        teacher: The teacher, prepared for the run.

    Warns:
        UserWarning: If its logits are still made of all positions at once; with the reason.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._own: Any = getattr(teacher, 'linear_outputs', None)
        self._module = module_of(teacher)
        self._head = self._found()

    def _found(self) -> LinearHead | None:
        teacher = self._teacher
        if self._own is not None or self._module is None:
            return None
        try:
            if getattr(teacher, 'has_own_forward', False):
                raise ConfigError('its forward function is one of your own')
            if is_sharded(self._module):
                raise ConfigError('it is sharded')
            return LinearHead(self._module, f'the teacher {teacher.name!r}')
        except ConfigError as error:
            warnings.warn(
                f'The logits of the teacher {teacher.name!r} are made of all positions at once, which takes memory, '
                f'not those of the student: {error}',
                stacklevel=2,
            )
            return None

    def __call__(self, batch: Any, index: Tensor | None = None) -> Any:
        """What the teacher returns, or a :class:`LinearAnswer`."""
        if self._own is not None:
            return self._own(batch, index)
        if module_of(self._teacher) is not self._module:  # a copy of the student that was made anew
            self._module = module_of(self._teacher)
            self._head = self._found()
        if self._head is None:
            return self._teacher.outputs(batch, index)
        with self._head.recording():
            self._teacher.outputs(batch, index)
            return LinearAnswer(self._head.take().detach())

    @property
    def classes(self) -> int | None:
        """The size of its head; ``None`` if it is not kept."""
        return None if self._head is None else self._head.classes

    def recording(self) -> contextlib.AbstractContextManager[Any]:
        """Keeps the head from making logits in one forward pass that something else starts."""
        return contextlib.nullcontext() if self._head is None else self._head.recording()
