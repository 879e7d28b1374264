"""Evaluates the nets that train beside the student."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from composer.core import Event, State, get_precision_context
from composer.loggers import Logger
from torch import Tensor
from torchmetrics import Metric

from composer_kd.algorithms.teacher_evaluation import updates_of
from composer_kd.batches.contents import to_evaluate_on
from composer_kd.batches.format import BatchFormat

__all__ = ['EVALUATION_EVENTS', 'JointEvaluation']

EVALUATION_EVENTS = (
    Event.EVAL_START,
    Event.EVAL_BEFORE_FORWARD,
    Event.EVAL_AFTER_FORWARD,
    Event.EVAL_BATCH_END,
    Event.EVAL_END,
)


class JointEvaluation(ABC):
    """Computes the evaluator's metrics of further nets, and logs them as ``metrics/<evaluator>/<net>/<metric>``.

    Attributes:
        form: The format of batches.
        latest: The last value logged under each name.
    """

    def __init__(self) -> None:
        self.form = BatchFormat()
        self.latest: dict[str, float] = {}
        self._metrics: dict[str, dict[str, Metric]] = {}
        self._waiting: tuple[Mapping[str, Any], Any, int] | None = None
        self._batch: Any = None

    def before_forward(self) -> None:
        """Called before the student runs on a microbatch of an evaluator; does nothing by default."""
        return

    def stop(self) -> None:
        """Called when training ends, and when an evaluator starts: leaves nothing of an earlier one that was ended."""
        self._metrics, self._waiting = {}, None

    @abstractmethod
    def outputs(self, batch: Any) -> Mapping[str, Any]:
        """Runs each net on the microbatch that the student has just run on.

        Args:
            batch: The microbatch as models take it.

        Returns:
            The outputs by the net's name.
        """

    @abstractmethod
    def update(self, name: str, batch: Any, outputs: Any, metric: Metric) -> None:
        """Updates a metric of a net with its outputs."""

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Handles one event of an evaluator."""
        if event is Event.EVAL_START:
            self.stop()
        elif event is Event.EVAL_AFTER_FORWARD:
            # It shows only later whether Composer uses the microbatch: samples that a distributed sampler repeats, to
            # give all ranks equally many, count in no metric.
            batch, self._batch = state.batch if self._batch is None else self._batch, None
            with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
                outputs = self.outputs(self.form.split(batch)[0])
            metrics = state.eval_metrics[state.dataloader_label]
            for name in outputs:  # on every rank, because they are computed together
                if name not in self._metrics:
                    self._metrics[name] = _fresh(metrics)
            self._waiting = outputs, batch, updates_of(state)
        elif event is Event.EVAL_END:
            self._log(state, logger)
        else:  # the next microbatch begins, or the batch ends
            self._update(state)
            if event is Event.EVAL_BEFORE_FORWARD:
                self._batch = to_evaluate_on(state.batch) if isinstance(state.batch, Mapping) else None
                self.before_forward()

    def _update(self, state: State) -> None:
        if self._waiting is None:
            return
        (outputs, batch, before), self._waiting = self._waiting, None
        metrics = state.eval_metrics[state.dataloader_label]
        if not metrics or updates_of(state) == before:
            return
        with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
            for name, output in outputs.items():
                for metric in self._metrics[name].values():
                    self.update(name, batch, output, metric)

    def _log(self, state: State, logger: Logger) -> None:
        label = state.dataloader_label
        found = {
            f'metrics/{label}/{name}/{key}': metric.compute()
            for name, metrics in self._metrics.items()
            for key, metric in metrics.items()
        }
        logger.log_metrics(found)
        self.latest.update({name: float(v) for name, v in found.items() if isinstance(v, Tensor) and v.numel() == 1})


def _fresh(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Metrics of the same kinds, on the same device, without what these have seen."""
    copies = copy.deepcopy(dict(metrics))
    for metric in copies.values():
        metric.reset()
    return copies
