"""Checks before training that teachers which know samples, or answer from some time on, fit the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from composer.core import State
from torch import Tensor

from composer_kd.errors import ConfigError
from composer_kd.schedules import Window
from composer_kd.teachers import Teacher
from composer_kd.teachers.own_tokens import check_own_tokenizer

__all__ = ['check_answers', 'check_data', 'optimized']


def check_data(teachers: Sequence[Teacher], dataset: Any, positions: str) -> None:
    """Lets teachers that know samples by their numbers compare the data set with theirs.

    Args:
        teachers: The teachers; each with a method ``check_data`` is asked.
        dataset: The data set of the training loader.
        positions: Which positions the run compares: ``'labelled'`` or ``'attended'``.
    """
    for teacher in teachers:
        if hasattr(teacher, 'check_data'):
            teacher.check_data(dataset, positions)
        if getattr(teacher, 'own_tokens', False):
            check_own_tokenizer(teacher, dataset)


def check_answers(teachers: Sequence[Teacher], window: Window, state: State) -> None:
    """Checks that teachers can follow the run, and the window does not open before one has an answer.

    Args:
        teachers: The teachers; each with a method ``check_start`` or an attribute ``first_answer`` is asked.
        window: The window of the distillation.
        state: The state of the run.

    Raises:
        ConfigError: If it does.
        TeacherError: If a teacher cannot follow the run.
    """
    for teacher in teachers:
        if hasattr(teacher, 'check_start'):
            teacher.check_start(state)
        first = getattr(teacher, 'first_answer', None)
        if first is not None and window.may_open_before(first, state):
            raise ConfigError(
                f'The teacher {teacher.name!r} has no answer before {first.to_timestring()}, and the window opens '
                f'at start_dur={window.start.to_timestring()}. Let it open then: start_dur={first.to_timestring()!r}.'
            )


def optimized(state: State) -> list[Tensor]:
    """The parameters that the optimizers of a run train, which no teacher may contain."""
    return [p for optimizer in state.optimizers for group in optimizer.param_groups for p in group['params']]
