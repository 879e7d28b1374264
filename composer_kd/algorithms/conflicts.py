"""Checks for algorithms and teachers that cannot be combined with distillation."""

from __future__ import annotations

from collections.abc import Iterable

from composer.core import State
from torch import Tensor

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.errors import ConfigError, TeacherError
from composer_kd.teachers import TeacherPool, module_of, moves

__all__ = ['refuse_algorithms', 'refuse_shared']


def refuse_algorithms(state: State) -> None:
    """Checks that no other algorithm of the run replaces the loss.

    Args:
        state: The state of the run.

    Raises:
        ConfigError: If an algorithm has ``interpolate_loss=True``.
    """
    _refuse_shared_moving(state)
    for algorithm in state.algorithms:
        if getattr(algorithm, 'interpolate_loss', False):
            name = type(algorithm).__name__
            raise ConfigError(
                f'{name}(interpolate_loss=True) replaces the loss after Distillation has set it, so the two cannot '
                f'be combined. Use {name}(interpolate_loss=False), which mixes the labels instead.'
            )


def _refuse_shared_moving(state: State) -> None:
    """Refuses a teacher that changes during training in two algorithms: each step would change it twice."""
    owners: dict[int, int] = {}
    for number, algorithm in enumerate(state.algorithms):
        for teacher in algorithm.teachers if isinstance(algorithm, DistillationAlgorithm) else ():
            if moves(teacher) and owners.setdefault(id(teacher), number) != number:
                raise ConfigError(
                    f'The teacher {teacher.name!r} changes with each step of the student, and two algorithms have it: '
                    'each step would count twice. Give each algorithm a teacher of its own.'
                )


def refuse_shared(pool: TeacherPool, parameters: Iterable[Tensor], owner: str) -> None:
    """Checks that no teacher shares parameters with the student or its optimizer, which would train the teacher too.

    Args:
        pool: The teachers.
        parameters: The parameters that no teacher may contain.
        owner: Who holds these parameters, for the message.

    Raises:
        TeacherError: If a teacher contains one of them.
    """
    theirs = {id(parameter) for parameter in parameters}
    for teacher in pool.teachers:
        module = module_of(teacher)
        if module is not None and any(id(parameter) in theirs for parameter in module.parameters()):
            raise TeacherError(
                f'The teacher {teacher.name!r} shares parameters with {owner}, so it would not stay as it is. '
                'Give a copy (copy.deepcopy), and optimize the student alone.'
            )
