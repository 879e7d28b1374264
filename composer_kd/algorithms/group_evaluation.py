"""Evaluates the nets of all groups of ranks on all data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from composer.core import Event, State
from composer.loggers import Logger
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from composer_kd.algorithms.joint_evaluation import JointEvaluation
from composer_kd.algorithms.rank_groups import RankGroups, send, tensors_of
from composer_kd.batches.contents import to_evaluate_on
from composer_kd.teachers.student_copy import copy_of

__all__ = ['GroupEvaluation']


class GroupEvaluation(JointEvaluation):
    """Evaluates the student, which is the net of group 0, and the nets of the other groups as they are now.

    Composer evaluates on each rank that rank's part of the data. While an evaluator runs, all ranks therefore have the
    student in the place of their own net, and copies of the other groups' nets beside it.

    Args:
        groups: The groups of ranks.
    """

    def __init__(self, groups: RankGroups) -> None:
        super().__init__()
        self._groups = groups
        self._copies: dict[str, Any] = {}
        self._own: tuple[nn.Module, list[Tensor]] | None = None  # what this rank trains

    @override
    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if not self._groups.started:
            return  # a saved student, evaluated without the processes that trained it
        if event is Event.EVAL_START:
            self.give_back()
            self._copies = self._current(state.model)
            self.lend(state.model)
        super().apply(event, state, logger)
        if event is Event.EVAL_END:
            self._copies = {}
            self.give_back()

    @override
    def outputs(self, batch: Any) -> Mapping[str, Any]:
        return {name: net.eval_forward(to_evaluate_on(batch)) for name, net in self._copies.items()}

    @override
    def update(self, name: str, batch: Any, outputs: Any, metric: Metric) -> None:
        self._copies[name].update_metric(batch, outputs, metric)

    def lend(self, model: nn.Module) -> None:
        """Puts the student in the place of this rank's net until :meth:`give_back`; a collective call."""
        tensors = list(tensors_of(model).values())
        self._own = model, [tensor.detach().clone() for tensor in tensors]
        send(tensors, 0)

    def give_back(self) -> None:
        """Puts this rank's net back."""
        self._swap()
        self._own = None

    @contextlib.contextmanager
    def interrupted(self) -> Iterator[None]:
        """Has this rank's net in its place for a block, also while an evaluator runs, or after one that failed."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        """Exchanges this rank's net and the student, if the student is in its place, and back."""
        if self._own is not None:
            model, kept = self._own
            with torch.no_grad():
                for tensor, value in zip(tensors_of(model).values(), kept):
                    here = tensor.clone()
                    tensor.copy_(value)
                    value.copy_(here)

    def _current(self, model: nn.Module) -> dict[str, Any]:
        """Copies of the other groups' nets, as they are now."""
        found = {}
        for number in range(1, self._groups.count):
            net = copy_of(model).eval().requires_grad_(False)
            send(list(tensors_of(net).values()), self._groups.leader(number))
            found[f'group-{number}'] = net
        return found
