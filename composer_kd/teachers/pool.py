"""The teachers of a run: which of them run for a batch, and the mean of their logits."""

from __future__ import annotations

import contextlib
import inspect
import math
import numbers
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from composer.core import State
from torch import Tensor, nn

from composer_kd.errors import ConfigError, TeacherError
from composer_kd.losses.linear_logits import AnyLogits, DeferredLogits, MeanLogits
from composer_kd.losses.sparse import SparseTarget
from composer_kd.teachers.base import Teacher, Teachers, answered_logits, missing_of, module_of
from composer_kd.teachers.checkpoints import load_weights
from composer_kd.teachers.frozen import FrozenTeacher
from composer_kd.teachers.linear_answers import LinearAnswers
from composer_kd.teachers.meanings import check_tokens
from composer_kd.teachers.vocabulary import cut

__all__ = ['TeacherPool', 'moves']


class TeacherPool:
    """All teachers of a run.

    Args:
        teachers: A module or :class:`.Teacher`, a list of them, which may be empty, or ``{checkpoint: module}``.
        n_to_sample: The number of teachers drawn for each batch; ``None`` for all.
        weights: A positive weight for each teacher in means over teachers; equal weights if ``None``.

    Attributes:
        vocabulary: The number of classes that are compared, the first of the logits; ``None`` for all.

    Raises:
        ConfigError: If the other arguments do not fit the number of teachers.
        TeacherError: If one of them is neither a module nor a teacher.
        CheckpointError: If weights cannot be loaded.

    Example:
        >>> import torch
        >>> pool = TeacherPool([torch.nn.Linear(2, 3) for _ in range(4)], n_to_sample=2)
        >>> pool.draw(seed=17, batch=0) == pool.draw(seed=17, batch=0)  # the same on every rank and after a resume
        True
    """

    def __init__(
        self,
        teachers: Teachers,
        n_to_sample: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.teachers: list[Teacher] = _as_teachers(teachers)
        count = len(self.teachers)
        if n_to_sample is not None and (
            isinstance(n_to_sample, bool) or not isinstance(n_to_sample, int) or not 1 <= n_to_sample <= count
        ):
            raise ConfigError(
                f'n_teachers_to_sample must be an int from 1 to the number of teachers ({count}), got {n_to_sample!r}'
            )
        if weights is not None and not _are_weights(weights, count):
            raise ConfigError(
                f'teacher_weights must be {count} positive finite numbers, one per teacher, got {weights!r}'
            )
        if weights is not None and n_to_sample == 1 and len(set(weights)) > 1:
            raise ConfigError(
                'teacher_weights weigh the logits of the teachers that are drawn together: with n_teachers_to_sample=1 '
                f'they have no effect, got {weights!r}. Leave them out, or draw more.'
            )
        self.n_to_sample = count if n_to_sample is None else n_to_sample
        self.weights = [1.0] * count if weights is None else [float(weight) for weight in weights]
        self.vocabulary: int | None = None
        self._everyone = tuple(range(count))
        self._linear: dict[int, LinearAnswers] = {}
        self._keeps_heads = False
        self._drawn: tuple[tuple[int, int], tuple[int, ...]] | None = None
        self.moving = [teacher for teacher in self.teachers if moves(teacher)]

    def prepare(self, state: State, vocabulary: int | None = None) -> None:
        """Prepares every teacher for a run; the global random state stays unchanged.

        Args:
            state: The state of the run.
            vocabulary: The number of tokens that the user says all models have.

        Raises:
            TeacherError: If a teacher reads tokens by other numbers than the student.
        """
        with torch.random.fork_rng(devices=[]):
            for teacher in self.teachers:
                check_tokens(state.model, teacher, vocabulary)
                teacher.prepare(state)

    def find_heads(self) -> None:
        """Finds the teachers that have hidden states and a linear head, for :meth:`keeping_heads`."""
        with torch.random.fork_rng(devices=[]):
            self._linear = {number: LinearAnswers(teacher) for number, teacher in enumerate(self.teachers)}

    def head_size(self, number: int) -> int | None:
        """The number of classes of a teacher's linear head, after :meth:`find_heads`; ``None`` if it is not known."""
        return self._linear[number].classes

    @contextlib.contextmanager
    def keeping_heads(self) -> Iterator[None]:
        """Inside a ``with`` block teachers give hidden states with their heads in the place of logits."""
        self._keeps_heads = True
        try:
            yield
        finally:
            self._keeps_heads = False

    @contextlib.contextmanager
    def without_products(self) -> Iterator[None]:
        """Inside a ``with`` block the next forward pass of each teacher makes the logits of no position."""
        with contextlib.ExitStack() as stack:
            for answers in self._linear.values():
                stack.enter_context(answers.recording())
            yield

    def end_batch(self, state: State) -> None:
        """Tells the teachers that may change that the student has made an optimizer step."""
        for teacher in self.moving:
            teacher.end_batch(state)

    def draw(self, seed: int, batch: int) -> tuple[int, ...]:
        """Draws the teachers for a batch: their numbers in ascending order, without replacement.

        The draw is a function of the seed and the batch's number only, so all ranks, all microbatches, a retried batch
        and a resumed run draw the same teachers. The global random state stays unchanged.

        Args:
            seed: The run's seed.
            batch: The number of the batch.
        """
        if self.n_to_sample == len(self._everyone):
            return self._everyone
        key = (seed, batch)
        if self._drawn is None or self._drawn[0] != key:
            generator = random.Random(f'composer_kd teachers {seed} {batch}')
            self._drawn = key, tuple(sorted(generator.sample(self._everyone, self.n_to_sample)))
        return self._drawn[1]

    def __call__(self, batch: Any, drawn: Sequence[int] | None = None, index: Tensor | None = None) -> AnyLogits:
        """Computes the weighted mean of the drawn teachers' logits; at most two sets of logits are in memory at a time.

        Args:
            batch: A microbatch as models take it.
            drawn: The numbers of the drawn teachers; ``None`` for all.
            index: ``(B,)`` The samples' numbers in the data set; ``None`` if unknown.

        Returns:
            The logits of a single teacher unchanged, or what a stored one kept; float32 for the mean of several.

        Raises:
            TeacherError: If the teachers' logits differ in shape.
        """
        drawn = self._everyone if drawn is None else drawn
        if len(drawn) == 1:
            return self.logits(drawn[0], batch, index)
        mean = self.mean(drawn)
        for number in drawn:
            mean.add(number, self.logits(number, batch, index))
        return mean.value

    def logits(self, number: int, batch: Any, index: Tensor | None = None) -> AnyLogits:
        """Runs one teacher and returns its logits, of the classes that are compared."""
        return self.answered(number, self.outputs(number, batch, index))

    def outputs(self, number: int, batch: Any, index: Tensor | None = None) -> Any:
        """Runs one teacher and returns its outputs."""
        ask = self._linear[number] if self._keeps_heads else self.teachers[number].outputs
        return ask(batch, index)

    def answered(self, number: int, outputs: Any) -> AnyLogits:
        """The logits in what a teacher returned, of the classes that are compared."""
        teacher = self.teachers[number]
        logits = cut(answered_logits(teacher, outputs), self.vocabulary, f'the teacher {teacher.name!r}')
        return logits.dense() if isinstance(logits, DeferredLogits) and not self._keeps_heads else logits

    def mean(self, drawn: Sequence[int]) -> RunningMean:
        """Starts a weighted mean of the logits of these teachers."""
        return RunningMean(self, drawn)

    def __repr__(self) -> str:
        return f'[{", ".join(teacher.name for teacher in self.teachers)}]'


class RunningMean:
    """A weighted mean of logits to which teachers are added one after the other.

    Args:
        pool: The teachers.
        drawn: The numbers of the teachers whose logits will be added.
    """

    def __init__(self, pool: TeacherPool, drawn: Sequence[int]) -> None:
        self._pool, self._drawn = pool, drawn
        self._mean: AnyLogits | None = None

    @property
    def value(self) -> AnyLogits:
        """The mean after all teachers are added: the unchanged logits of a single teacher, float32 for several."""
        assert self._mean is not None
        return self._mean

    def add(self, index: int, logits: AnyLogits) -> None:
        """Adds a teacher's logits.

        Args:
            index: The teacher's number in the pool.
            logits: Its logits.

        Raises:
            TeacherError: If their shape differs from the other teachers', or a stored teacher kept a part of them.
        """
        if len(self._drawn) == 1:
            self._mean = logits
            return
        if isinstance(logits, SparseTarget):
            raise TeacherError(
                f'The teacher {self._pool.teachers[index].name!r} is stored as a part of its classes, which has no '
                "mean with other teachers' logits. Store it dense, or draw one teacher for each batch: "
                'n_teachers_to_sample=1.'
            )
        assert not isinstance(self._mean, SparseTarget)
        weight = self._pool.weights[index] / sum(self._pool.weights[other] for other in self._drawn)
        if self._mean is None:
            self._mean = _weighted(logits, weight)
            return
        if logits.shape != self._mean.shape:
            first, this = (self._pool.teachers[number].name for number in (self._drawn[0], index))
            raise TeacherError(
                f'The teachers {first!r} and {this!r} answer in different shapes: '
                f'{tuple(self._mean.shape)} and {tuple(logits.shape)}. Their logits cannot be averaged.'
            )
        if isinstance(self._mean, Tensor) and isinstance(logits, Tensor):
            self._mean.add_(logits, alpha=weight)
        else:
            self._mean = MeanLogits((self._mean, logits), (1.0, weight))


def _weighted(logits: Tensor | DeferredLogits, weight: float) -> Tensor | MeanLogits:
    return MeanLogits((logits,), (weight,)) if isinstance(logits, DeferredLogits) else logits.float() * weight


def moves(teacher: Teacher) -> bool:
    """Whether a teacher may change during training: its ``end_batch`` is not that of :class:`.FrozenTeacher`.

    Example:
        >>> import torch
        >>> moves(FrozenTeacher(torch.nn.Linear(2, 3)))
        False
    """
    return type(teacher).end_batch is not FrozenTeacher.end_batch


def _as_teachers(given: Any) -> list[Teacher]:
    """The argument ``teachers`` as a list of teachers; a ``ModuleList`` is treated as a list."""
    if isinstance(given, Mapping):
        modules = [model.model if isinstance(model, FrozenTeacher) else model for model in given.values()]
        if len({id(module) for module in modules}) < len(modules):
            raise ConfigError(
                'Two checkpoints are given for one module, which would hold the weights of the last alone. '
                'Give each its own (copy.deepcopy).'
            )
        return [_with_checkpoint(model, checkpoint) for checkpoint, model in given.items()]
    if given is None:
        return []
    if isinstance(given, nn.ModuleList) or (isinstance(given, Sequence) and not isinstance(given, str)):
        return [_as_teacher(one) for one in given]
    if not isinstance(given, nn.Module) and not _parts_of_a_teacher(given):
        raise TeacherError(
            f'Expected a module, a list of modules, or {{checkpoint: module}} as teachers, got {type(given).__name__}'
        )
    return [_as_teacher(given)]


def _as_teacher(given: Any) -> Teacher:
    """A teacher unchanged, or a module as a frozen teacher."""
    missing, found = missing_of(given), _parts_of_a_teacher(given)
    if isinstance(given, type) and found:
        raise TeacherError(f'A teacher must be an object, got the class {given.__name__}: make one, {given.__name__}()')
    if not missing:
        _check_outputs(given)
        return given
    if found and (not isinstance(given, nn.Module) or len(found) == 3):
        raise TeacherError(
            f'{type(given).__name__} is no teacher yet: it has {" and ".join(found)}, and lacks '
            f'{" and ".join(missing)}. composer_kd.teachers.Teacher says what a teacher has.'
        )
    return FrozenTeacher(given)


def _check_outputs(teacher: Teacher) -> None:
    """Refuses overrides that would never be called, or not as they are written."""
    kind = type(teacher)
    try:
        inspect.signature(teacher.outputs).bind(None, None)
    except TypeError:
        raise TeacherError(
            f'{kind.__name__}.outputs must take the batch and the index: outputs(self, batch, index=None)'
        ) from None
    if isinstance(teacher, FrozenTeacher) and kind.__call__ is not FrozenTeacher.__call__:
        raise TeacherError(
            f'{kind.__name__} overrides __call__, which is not used in training. Override '
            'outputs(self, batch, index=None): logits and features are both taken from it.'
        )


def _parts_of_a_teacher(thing: Any) -> list[str]:
    """The names of a teacher's methods that an object has."""
    return [name for name in ('prepare', 'outputs', 'end_batch') if hasattr(thing, name)]


def _with_checkpoint(model: Any, checkpoint: Any) -> Teacher:
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise TeacherError(f'The keys of {{checkpoint: module}} must be paths or URIs, got {checkpoint!r}')
    if not isinstance(model, FrozenTeacher):
        teacher = _as_teacher(model)
        if isinstance(teacher, FrozenTeacher):
            return FrozenTeacher(model, checkpoint=checkpoint)
        module = module_of(teacher)
        if module is None:
            raise TeacherError(
                f'The teacher {teacher.name!r} has no module under the attribute `model` to load {checkpoint!r} into'
            )
        load_weights(module, checkpoint)
        return teacher
    load_weights(model.model, checkpoint)
    if model.name == type(model.model).__name__:
        model.name = os.fspath(checkpoint)
    return model


def _are_weights(weights: Any, count: int) -> bool:
    return (
        isinstance(weights, Sequence)
        and len(weights) == count
        and all(
            isinstance(w, numbers.Real) and not isinstance(w, bool) and math.isfinite(w) and float(w) > 0
            for w in weights
        )
    )
