"""The base class of distillation algorithms: the interface that runs, reports and the profiler use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from composer.core import Algorithm, State
from composer.loggers import Logger
from torch import nn
from typing_extensions import Self

from composer_kd.algorithms.settings import arguments, log_settings, plain, teacher_settings
from composer_kd.batches.format import BatchFormat
from composer_kd.schedules import Window
from composer_kd.teachers import Teacher, teacher_logits

__all__ = ['DistillationAlgorithm']


class DistillationAlgorithm(Algorithm):
    """Base class of distillation algorithms such as :class:`.Distillation`.

    ``composer-kd`` uses an algorithm only through the members below: it tries what ``trials()`` gives on a sample
    before training, the profiler reads ``window`` and ``teachers``, and ``final_metrics()`` go into ``metrics.json``. A
    run with such an algorithm counts as distilled. What its constructor was given goes to every logger when training
    starts, unless the settings of the whole run do: an algorithm calls :meth:`log_settings` at ``FIT_START``.

    In a YAML file, the annotations of the constructor's parameters decide how they are written: a parameter annotated
    :data:`composer_kd.teachers.Teachers` takes a list of teachers, one annotated
    :data:`composer_kd.matches.match.Losses` takes losses and matches, one annotated
    :data:`composer_kd.matches.loss_signature.Loss` a loss, and one annotated
    :data:`composer_kd.algorithms.peers.Peers` a list of nets that train beside the student.

    Example:
        >>> class Mine(DistillationAlgorithm):
        ...     def match(self, event, state): return False
        ...     def apply(self, event, state, logger): ...
        >>> Mine().teachers, Mine().window, Mine().final_metrics()
        ((), None, {})

    Attributes:
        logs_settings: Whether it logs its settings; a run whose whole configuration is logged has it ``False``.
    """

    logs_settings = True
    _given: Mapping[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Notes what the constructor is given, for :meth:`settings`."""
        made = super().__new__(cls)
        made._given = arguments(cls, args, kwargs)
        return made

    @property
    def window(self) -> Window | None:
        """The window in which it distils; ``None`` if it distils in every batch."""
        return None

    @property
    def teachers(self) -> Sequence[Teacher]:
        """The teachers that run beside the student; empty if the algorithm has none."""
        return ()

    def format_of(self, model: nn.Module) -> BatchFormat:
        """The format of the batches of a model, from which its teachers get their part."""
        return BatchFormat.of(model)

    @classmethod
    def student_seed(cls, seed: int, options: Mapping[str, Any]) -> int:
        """The seed from which a YAML run draws the student's first weights in this process.

        Args:
            seed: The run's seed, which is returned by default.
            options: The constructor's arguments.
        """
        return seed

    def trials(self, state: State) -> Iterator[tuple[str, Callable[[Any], Any]]]:
        """What a run tries on its first sample before training, beside the student; by default its teachers.

        Args:
            state: A state with the student, in eval mode, and the device; without data and optimizer.

        Yields:
            What messages call it, which follows after the algorithm's key, and a function of a batch of the loader.
        """
        for teacher in self.teachers:
            yield f'teachers: the teacher {teacher.name!r}', partial(_answer, self, teacher, state)

    def final_metrics(self) -> Mapping[str, float]:
        """The latest value of each metric that it measured, by the name under which it was logged."""
        return {}

    def settings(self) -> dict[str, Any]:
        """What its constructor was given, defaults included, as plain values nested as in a YAML file."""
        found = {name: plain(value) for name, value in self._given.items() if value is not None}
        if 'teachers' in found:
            found['teachers'] = [teacher_settings(teacher) for teacher in self.teachers]
        return found

    def log_settings(self, state: State, logger: Logger) -> None:
        """Gives its settings to every logger, by keys such as ``algorithms.distillation.kd_loss_weight``.

        Args:
            state: The state of the run.
            logger: The run's logger.
        """
        if self.logs_settings:
            alike = [one for one in state.algorithms if type(one) is type(self)]
            name = _snake_case(type(self).__name__) + (f'_{number}' if (number := alike.index(self) + 1) > 1 else '')
            log_settings(logger.destinations, {'algorithms': {name: self.settings()}})


def _snake_case(name: str) -> str:
    return re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()


def _answer(algorithm: DistillationAlgorithm, teacher: Teacher, state: State, batch: Any) -> Any:
    teacher.prepare(state)
    return teacher_logits(teacher, *algorithm.format_of(state.model).split(batch))
