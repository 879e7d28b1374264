"""The protocol ``Teacher``: what the pool, the algorithms and the checks before training require of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeAlias, runtime_checkable

from composer.core import State
from torch import Tensor, nn

from composer_kd.features.outputs import BY_FORWARD, logits_of
from composer_kd.losses.linear_logits import AnyLogits, DeferredLogits
from composer_kd.losses.sparse import SparseTarget

__all__ = ['Teacher', 'Teachers', 'answered_logits', 'kept_logits', 'missing_of', 'module_of', 'teacher_logits']


@runtime_checkable
class Teacher(Protocol):
    """A source of logits or features for each batch. :class:`.FrozenTeacher` is one; write your own as a plain class.

    A teacher leaves the batch unchanged, gives equal results on all ranks (its random draws included), stays out of the
    student's ``state_dict`` and optimizer, and keeps its own modules frozen and in eval mode. It runs without
    gradients, in the run's precision. A teacher whose layers can be matched has its module in the attribute ``model``.

    One that knows samples by their numbers has a true attribute ``by_number``, and may have a method
    ``check_data(dataset, positions)``, which is called before training. One that does not know all of its layers'
    features may have ``check_layers(keys)``, called before training with the layers that are compared.

    A teacher that gives a :class:`composer_kd.losses.sparse.SparseTarget` has a true attribute ``sparse``: its logits
    have no mean with those of other teachers, and a loss on the mean of several becomes the mean of the losses. A
    method ``example()`` that returns one lets losses that cannot take it be refused before training.

    One whose module is the student itself has a true attribute ``is_student``. It may share its parameters, and leaves
    them, their gradients, the modes of its modules and its hooks as they are.

    One that has no answer in the first batches has an attribute ``first_answer``, a Composer ``Time``: a window that
    opens before is refused. One that needs something of the run, such as the length of an epoch, may have a method
    ``check_start(state)``, which is called when training starts.

    Checkpoints of a run say which teachers it has, by their classes, weights and adapters. A teacher with settings that
    change its answers may have a method ``settings()`` that returns them by name, as numbers and strings: a resume with
    others is an error. One that is more than its ``model``, or stands for another teacher, may have a method
    ``fingerprint()`` that returns ``name``, ``class``, ``weights`` (a hash or ``None``) and ``input_adapter`` as
    :func:`.teacher_fingerprint` does.

    A teacher that changes during training, such as an average of the student, should have ``state_dict()`` and
    ``load_state_dict(state)``: :class:`.Distillation` then saves its state with the run and restores it in a resume.
    Without them it is prepared anew in a resume, with a warning.

    One whose classes are not the student's, as with another tokenizer, has a true attribute ``own_tokens``: losses that
    compare class by class are refused, and no metrics are computed of its answers.

    One that keeps hidden states and the linear head that makes logits of them may have a method
    ``linear_outputs(batch, index)``, which returns outputs whose ``logits`` are a
    :class:`composer_kd.losses.linear_logits.LinearLogits`: for ``Distillation(..., fused_head=True)``.

    A teacher that can answer for whole microbatches alone, as one that looks at the student's outputs of the step, has
    a true attribute ``whole_batches``: a ``route``, which gives it its own samples alone, is refused.

    One whose answers are made of the labels has a true attribute ``of_labels``: texts that the student makes by itself
    have no right labels.

    Attributes:
        name: Its name in messages, and in ``Match(..., teacher=name)``.

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
        """Prepares the teacher on ``state.device``; called before the first batch, and again for each run.

        A run from a YAML calls it once more before that, in the dry run. For a teacher that changes during training it
        is called again after a checkpoint was loaded into the student. Random draws leave the run's random state alone.

        Args:
            state: The state of the run; it has a model and a device already, but no data or optimizer yet. Later
                events may see the model wrapped (``DistributedDataParallel``).
        """

    def outputs(self, batch: Any, index: Tensor | None = None) -> Any:
        """Computes the outputs for a microbatch.

        Args:
            batch: The microbatch as models take it: ``(inputs, labels)`` or a mapping.
            index: ``(B,)`` The samples' numbers in the training set; ``None`` if unknown, and in evaluation.

        Returns:
            Logits in the student's shape, or any output of a model with logits, an object or mapping with ``logits``.
            Logits of which a part of the classes is known are a :class:`composer_kd.losses.sparse.SparseTarget`.
        """

    def end_batch(self, state: State) -> None:
        """Called after each optimizer step, inside and outside the window; the place to update a changing teacher.

        Args:
            state: The state of the run.
        """


Teachers: TypeAlias = Annotated[
    nn.Module | Teacher | Sequence[nn.Module | Teacher] | Mapping[str, nn.Module | Teacher], 'teachers'
]
"""A module or :class:`Teacher`, a list of them, or ``{checkpoint: module}``.

An algorithm's parameter with this annotation is written as a list of teachers in a YAML file.
"""


def teacher_logits(teacher: Teacher, batch: Any, index: Tensor | None = None) -> AnyLogits:
    """Runs a teacher and returns its logits.

    Raises:
        TeacherError: If its outputs contain no logits.
    """
    return answered_logits(teacher, teacher.outputs(batch, index))


def answered_logits(teacher: Teacher, outputs: Any) -> AnyLogits:
    """Finds the logits in what a teacher returned.

    Args:
        teacher: The teacher.
        outputs: Its outputs.

    Raises:
        TeacherError: If they contain no logits, or it cannot be known which they are.
    """
    said = kept_logits(outputs)
    return logits_of(outputs, f'the teacher {teacher.name!r}', BY_FORWARD) if said is None else said


def kept_logits(outputs: Any) -> SparseTarget | DeferredLogits | None:
    """What a stored teacher kept of its logits, if a part of the classes, or logits that are computed later.

    ``None`` for other outputs.
    """
    said = outputs if isinstance(outputs, SparseTarget) else getattr(outputs, 'logits', None)
    return said if isinstance(said, (SparseTarget, DeferredLogits)) else None


def module_of(teacher: Teacher) -> nn.Module | None:
    """The module of a teacher, whose layers can be matched; ``None`` if it has none."""
    candidates = (getattr(teacher, 'model', None), teacher)  # a module may be a teacher itself
    return next((module for module in candidates if isinstance(module, nn.Module)), None)


def missing_of(thing: Any) -> list[str]:
    """The names of the members that an object lacks to be a :class:`Teacher`.

    Example:
        >>> missing_of('resnet56')
        ['name', 'prepare', 'outputs', 'end_batch']
    """
    return [name for name in ('name', 'prepare', 'outputs', 'end_batch') if not hasattr(thing, name)]
