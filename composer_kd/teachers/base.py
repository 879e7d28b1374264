"""What every teacher is: the protocol that the pool, the algorithms and the checks before training rely on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeAlias, runtime_checkable

from composer.core import State
from torch import Tensor, nn

from composer_kd.features.outputs import logits_of

__all__ = ['Teacher', 'Teachers', 'missing_of', 'module_of', 'teacher_logits']


@runtime_checkable
class Teacher(Protocol):
    """Answers for batches, in the place of a model. :class:`.FrozenTeacher` is one; write your own as a plain class.

    A teacher leaves the batch as it is, draws nothing at random that differs between ranks, and is no part of the
    student's ``state_dict`` or optimizer. It is asked with gradients off, in the run's precision. One whose layers can
    be matched has its module under the attribute ``model``.

    Attributes:
        name: Names it in messages, and for ``Match(..., teacher=name)``.

    Example:
        >>> import torch
        >>> class Constant:
        ...     name = 'constant'
        ...     def prepare(self, state): ...
        ...     def outputs(self, batch, index=None): return torch.zeros(len(batch[0]), 3)
        ...     def end_batch(self, state): ...
        >>> isinstance(Constant(), Teacher)
        True
    """

    name: str

    def prepare(self, state: State) -> None:
        """Gets ready on ``state.device``; called before the first batch, and again for each run.

        Args:
            state: The run's; before training it has a model and a device, and no data or optimizer yet.
        """

    def outputs(self, batch: Any, index: Tensor | None = None) -> Any:
        """Answers for a microbatch.

        Args:
            batch: The microbatch as models take it: ``(inputs, labels)`` or a mapping.
            index: ``(B,)`` The samples' numbers in the data set, where they are known.

        Returns:
            Logits in the student's shape, or what a model returns: an object or mapping with ``logits``.
        """

    def end_batch(self, state: State) -> None:
        """Called after each optimizer step, in the window or out of it: what moves with the student moves here."""


Teachers: TypeAlias = Annotated[
    nn.Module | Teacher | Sequence[nn.Module | Teacher] | Mapping[str, nn.Module | Teacher], 'teachers'
]
"""A module or :class:`Teacher`, a list of them, or ``{checkpoint: module}``.

A parameter with this annotation, of whatever algorithm, is written in a YAML as a list of teachers.
"""


def teacher_logits(teacher: Teacher, batch: Any, index: Tensor | None = None) -> Tensor:
    """The logits with which a teacher answers.

    Raises:
        TeacherError: If there are none in its outputs.
    """
    return logits_of(teacher.outputs(batch, index), f'the teacher {teacher.name!r}')


def module_of(teacher: Teacher) -> nn.Module | None:
    """The module inside a teacher, whose layers can be matched; ``None`` where it has none."""
    module = getattr(teacher, 'model', teacher)
    return module if isinstance(module, nn.Module) else None


def missing_of(thing: Any) -> list[str]:
    """What an object lacks to be a :class:`Teacher`.

    Example:
        >>> missing_of('resnet56')
        ['name', 'prepare', 'outputs', 'end_batch']
    """
    return [name for name in ('name', 'prepare', 'outputs', 'end_batch') if not hasattr(thing, name)]
