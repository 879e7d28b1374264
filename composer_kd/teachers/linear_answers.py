"""Asks teachers for hidden states with the linear head that makes their logits, where they have them."""

from __future__ import annotations

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
        self._head: LinearHead | None = None
        self._own: Any = getattr(teacher, 'linear_outputs', None)
        module = module_of(teacher)
        if self._own is not None or module is None:
            return
        try:
            if getattr(teacher, 'has_own_forward', False):
                raise ConfigError('its forward function is one of your own')
            if is_sharded(module):
                raise ConfigError('it is sharded')
            self._head = LinearHead(module, f'the teacher {teacher.name!r}')
        except ConfigError as error:
            warnings.warn(
                f'The logits of the teacher {teacher.name!r} are made of all positions at once, which takes memory, '
                f'not those of the student: {error}',
                stacklevel=2,
            )

    def __call__(self, batch: Any, index: Tensor | None = None) -> Any:
        """What the teacher returns, or a :class:`LinearAnswer`."""
        if self._own is not None:
            return self._own(batch, index)
        if self._head is None:
            return self._teacher.outputs(batch, index)
        with self._head.recording():
            self._teacher.outputs(batch, index)
            return LinearAnswer(self._head.take().detach())
