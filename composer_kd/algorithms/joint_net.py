"""A net that was trained beside a student, for use on its own; and evaluators of such nets beside a saved student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from composer.core import Event, State
from composer.loggers import Logger
from torch import nn
from typing_extensions import override

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.algorithms.joint_evaluation import EVALUATION_EVENTS, JointEvaluation

__all__ = ['JointEvaluator', 'JointNet']


@dataclass(frozen=True)
class JointNet:
    """A net that was trained beside a student.

    Args:
        model: The net.
        input_adapter: Changes its inputs first, as that of a teacher; ``None`` for no change.
        code: Python that makes it of ``model``, the net that its settings build; empty if it is that net, ``None`` if
            that cannot be said.
    """

    model: nn.Module
    input_adapter: Callable[[Any], Any] | None = None
    code: str | None = ''


class JointEvaluator(DistillationAlgorithm):
    """Evaluates nets beside a student that is evaluated alone: ``Trainer(model, algorithms=[...]).eval()``.

    Args:
        evaluation: Evaluates the nets.
    """

    def __init__(self, evaluation: JointEvaluation) -> None:
        self.evaluation = evaluation

    @override
    def match(self, event: Event, state: State) -> bool:
        return event in EVALUATION_EVENTS

    @override
    def apply(self, event: Event, state: State, logger: Logger) -> None:
        self.evaluation.apply(event, state, logger)

    @override
    def final_metrics(self) -> Mapping[str, float]:
        return self.evaluation.latest
