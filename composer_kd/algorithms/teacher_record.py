"""Which teachers a run has, in its checkpoints: another one in a resume is an error."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from composer_kd.errors import CheckpointError
from composer_kd.teachers import Teacher, differences, teacher_fingerprint

__all__ = ['TeacherRecord']

_KEY = 'fingerprints'


class TeacherRecord:
    """Saves the fingerprints of the teachers of one algorithm, and compares them in a resume.

    Composer restores all algorithms of one class from the state of the last of them. Each therefore saves the teachers
    of all. The weights are hashed once in a run, when it first saves or loads.

    Args:
        teachers: The teachers in order.

    Example:
        >>> import torch
        >>> from composer_kd.teachers import FrozenTeacher
        >>> one = TeacherRecord([FrozenTeacher(torch.nn.Linear(2, 3), name='large')])
        >>> [[saved['name'] for saved in teachers] for teachers in one.state_dict()['fingerprints']]
        [['large']]
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self._teachers = teachers
        self._all: Sequence[TeacherRecord] = [self]

    @functools.cached_property
    def _fingerprints(self) -> list[dict[str, Any]]:
        return [teacher_fingerprint(teacher) for teacher in self._teachers]

    def prepared(self, every: Sequence[TeacherRecord]) -> None:
        """Begins a run.

        Args:
            every: The records of all algorithms of the class, in the order in which the run has them.
        """
        self._all = every
        self.__dict__.pop('_fingerprints', None)

    def state_dict(self) -> dict[str, Any]:
        """The fingerprints of each algorithm's teachers, under ``'fingerprints'``."""
        return {_KEY: [one._fingerprints for one in self._all]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compares the teachers with those of a checkpoint.

        Args:
            state: From :meth:`state_dict`; without fingerprints, as older versions saved it, nothing is compared.

        Raises:
            CheckpointError: If a teacher is another one: its weights, class or input adapter, their order or number.
        """
        saved = state.get(_KEY)
        if saved is None:
            return
        now = [one._fingerprints for one in self._all]
        if len(saved) != len(now):
            lines = [f'{len(saved)} Distillation saved, now {len(now)}']
        else:
            lines = [
                line if len(now) == 1 else f'Distillation {number}: {line}'
                for number, sides in enumerate(zip(saved, now))
                for line in differences(*sides)
            ]
        if lines:
            raise CheckpointError(
                'The checkpoint was trained with other teachers than this run has:\n'
                + '\n'.join(f'  {line}' for line in lines)
                + '\nGive this run the teachers of before. If others are meant, leave out what the algorithms saved: '
                "load_path=..., load_ignore_keys=['state/algorithms/*'], and no autoresume. Teachers that follow the "
                'student start anew then.'
            )
