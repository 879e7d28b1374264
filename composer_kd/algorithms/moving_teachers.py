"""Teachers that change during training, and the checkpoints of their run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from composer.core import State

from composer_kd.students import EXTRAS
from composer_kd.teachers import Teacher

__all__ = ['MovingTeachers']


class MovingTeachers:
    """Saves and restores the teachers of one algorithm that change with the student.

    Composer restores all algorithms of one class from the state of the last of them. Each therefore saves the teachers
    of all, and takes its own.

    Args:
        teachers: Those that change; each is saved if it has ``state_dict`` and ``load_state_dict``.

    Example:
        >>> MovingTeachers([]).state_dict()
        {}
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self._teachers = {f'{number}: {teacher.name}': teacher for number, teacher in enumerate(teachers)}
        self._all: Sequence[MovingTeachers] = [self]
        self._restored: set[str] = set()
        self._versions: list[tuple[int, int]] = []
        self._parts: list[int] = []

    def state_dict(self) -> dict[str, Any]:
        """The state of each teacher that has one, of all algorithms, under ``'teachers'``; empty without any."""
        states = {
            one._saved_as(key): teacher.state_dict()
            for one in self._all
            for key, teacher in one._teachers.items()
            if hasattr(teacher, 'state_dict') and hasattr(teacher, 'load_state_dict')
        }
        return {'teachers': states} if states else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the teachers that the state contains.

        Args:
            state: From :meth:`state_dict`, or from a run without such teachers.
        """
        saved = state.get('teachers', {})
        for key, teacher in self._teachers.items():
            if self._saved_as(key) in saved:
                teacher.load_state_dict(saved[self._saved_as(key)])  # type: ignore[attr-defined]
                self._restored.add(key)

    def _saved_as(self, key: str) -> str:
        """The key in a state: that of the first algorithm's teachers is as it is."""
        number = self._all.index(self)
        return f'{number}, {key}' if number else key

    def prepared(self, state: State, every: Sequence[MovingTeachers]) -> None:
        """Records the student's weights with which the teachers were prepared.

        Args:
            state: The state of the run.
            every: The moving teachers of all algorithms of the class, in the order in which the run has them.
        """
        self._all = every
        self._restored.clear()
        self._versions, self._parts = _versions(state), _parts(state)

    def before_load(self, state: State) -> None:
        """Prepares the teachers again if other algorithms have replaced parts of the student since."""
        if self._parts != _parts(state):
            for teacher in self._teachers.values():
                teacher.prepare(state)
            self.prepared(state, self._all)

    def after_load(self, state: State) -> None:
        """Prepares the teachers again that were prepared with other weights of the student than those just loaded.

        A teacher whose own state was restored is left as it is.
        """
        if self._versions == _versions(state):
            return
        for key, teacher in self._teachers.items():
            if key in self._restored:
                continue
            if state.timestamp.batch.value:
                warnings.warn(
                    f'The teacher {teacher.name!r} changes during training, and the checkpoint does not contain it: it '
                    'starts anew from the weights loaded. With state_dict() and load_state_dict(state) it is saved.',
                    stacklevel=2,
                )
            teacher.prepare(state)


def _parts(state: State) -> list[int]:
    """Changes whenever a module of the student is replaced."""
    return [id(module) for name, module in state.model.named_modules() if EXTRAS not in name.split('.')]


def _versions(state: State) -> list[tuple[int, int]]:
    """Changes whenever a parameter of the student is replaced, or written in place as by loading a checkpoint."""
    named = state.model.named_parameters()
    return [(id(value), value._version) for name, value in named if EXTRAS not in name.split('.')]
