"""Evaluates peers beside the student."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from composer.core import Event, State, get_precision_context
from composer.loggers import Logger
from torch import Tensor
from torchmetrics import Metric

from composer_kd.algorithms.peers import Peer
from composer_kd.algorithms.teacher_evaluation import updates_of
from composer_kd.batches.format import BatchFormat

__all__ = ['PeerEvaluation']


class PeerEvaluation:
    """Runs each peer on the batches of an evaluator, and logs its metrics as ``metrics/<evaluator>/<peer>/<metric>``.

    Args:
        peers: The peers.

    Attributes:
        form: The format of batches.
        latest: The last value logged under each name.
    """

    def __init__(self, peers: Sequence[Peer]) -> None:
        self._peers = peers
        self.form = BatchFormat()
        self.latest: dict[str, float] = {}
        self._metrics: dict[str, dict[str, Metric]] = {}
        self._waiting: tuple[dict[str, Any], Any, int] | None = None

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Handles one event of an evaluator."""
        if event is Event.EVAL_START:
            self._metrics, self._waiting = {}, None
        elif event is Event.EVAL_AFTER_FORWARD:
            self._run(state)
        elif event is Event.EVAL_END:
            self._log(state, logger)
        else:  # the next microbatch begins, or the batch ends
            self._update(state)

    def _run(self, state: State) -> None:
        """Runs the peers, and keeps their outputs until it shows whether Composer uses the microbatch.

        A distributed sampler repeats samples to give all ranks equally many; those count in no metric.
        """
        if not self._metrics:  # at EVAL_START the evaluator's metrics are not yet on the device
            for peer in self._peers:
                mine = copy.deepcopy(dict(state.eval_metrics[state.dataloader_label]))
                for metric in mine.values():
                    metric.reset()
                self._metrics[peer.name] = mine
        batch = self.form.split(state.batch)[0]
        with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
            outputs = {peer.name: peer.evaluated(batch) for peer in self._peers}
        self._waiting = outputs, state.batch, updates_of(state)

    def _update(self, state: State) -> None:
        if self._waiting is None:
            return
        (outputs, batch, before), self._waiting = self._waiting, None
        if updates_of(state) == before:
            return
        with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
            for peer in self._peers:
                for metric in self._metrics[peer.name].values():
                    peer.update_metric(batch, outputs[peer.name], metric)

    def _log(self, state: State, logger: Logger) -> None:
        label = state.dataloader_label
        found = {
            f'metrics/{label}/{name}/{key}': metric.compute()
            for name, metrics in self._metrics.items()
            for key, metric in metrics.items()
        }
        logger.log_metrics(found)
        self.latest.update({name: float(v) for name, v in found.items() if isinstance(v, Tensor) and v.numel() == 1})
