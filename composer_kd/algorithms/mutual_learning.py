"""The algorithm ``MutualLearning``: several nets train in one run and learn from one another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from composer.core import Event, State, get_precision_context
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor, nn
from typing_extensions import override

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.algorithms.loss_parts import LossParts, parts_of
from composer_kd.algorithms.peer_evaluation import PeerEvaluation
from composer_kd.algorithms.peers import Peers, as_peers
from composer_kd.batches.checks import labels_fit
from composer_kd.batches.counts import BatchCount, weighed
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import ConfigError, TeacherError
from composer_kd.features.outputs import logits_of, scalar_loss
from composer_kd.losses import KLDivergence
from composer_kd.matches.auxiliary import AuxiliaryModules
from composer_kd.matches.auxiliary_state import AuxiliaryState
from composer_kd.matches.loss_adapter import LossAdapter
from composer_kd.matches.loss_signature import Loss
from composer_kd.schedules import Moment, Window

__all__ = ['MutualLearning']

_EVALUATION = (
    Event.EVAL_START,
    Event.EVAL_BEFORE_FORWARD,
    Event.EVAL_AFTER_FORWARD,
    Event.EVAL_BATCH_END,
    Event.EVAL_END,
)


class MutualLearning(DistillationAlgorithm):
    r"""Trains several nets in one run, each on its own loss and on the predictions of the others.

    Zhang et al., *Deep Mutual Learning* (arXiv 1706.00384). With the student and its peers as the nets :math:`k = 1
    \dots K`, and predictions of the others that no gradient reaches:

    .. math:: L = \sum_k \left[ w_{org} \cdot L_{task, k} + w_{kd} \cdot
              \frac{1}{K - 1} \sum_{l \ne k} L_{kd}(z_k, z_l) \right]

    In every microbatch each net runs once. The paper has KL divergences at temperature 1 and both weights 1. The nets
    are trained by the run's optimizer, the peers in its only parameter group or in groups of their own; gradient
    clipping by a norm is by that of all nets together.

    The peers are in the student's module tree (under ``composer_kd``) until :meth:`close`: saved, resumed and
    synchronised between ranks with it. Composer logs ``loss/train/task`` and ``kd`` of the student, and
    ``loss/train/<peer>/task`` and ``<peer>/kd`` of each peer; in evaluations, ``metrics/<evaluator>/<peer>/<metric>``.

    Args:
        peers: The other nets: modules or :class:`.Peer`, of any architecture, with the student's classes.
        kd_loss_fn: A loss of ``(student_logits, teacher_logits)``; ``None`` for ``KLDivergence(temperature=1.0)``.
        kd_loss_weight: :math:`w_{kd} \ge 0`.
        org_loss_weight: :math:`w_{org} \ge 0`.
        start_dur: The start of the window in which the nets learn from one another; outside it each has its own loss
            alone, as in :class:`.Distillation`.
        end_dur: Its end.

    Raises:
        ConfigError: If a setting is out of range, the run shards the student (FSDP), or it has no single optimizer.
        TeacherError: If the logits of two nets differ in shape.

    Example:
        >>> MutualLearning(peers=[nn.Linear(4, 2), nn.Linear(4, 2)])
        MutualLearning(['Linear', 'Linear-2'], KLDivergence)
    """

    def __init__(
        self,
        peers: Peers,
        kd_loss_fn: Loss | None = None,
        kd_loss_weight: float = 1.0,
        org_loss_weight: float = 1.0,
        start_dur: Moment = 0.0,
        end_dur: Moment = 1.0,
    ) -> None:
        for name, weight in (('kd_loss_weight', kd_loss_weight), ('org_loss_weight', org_loss_weight)):
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float('inf'):
                raise ConfigError(f'{name} must be a finite number of 0 or more, got {weight!r}')
        self.peers = as_peers(peers)
        self.kd_loss_weight, self.org_loss_weight = float(kd_loss_weight), float(org_loss_weight)
        loss = KLDivergence(temperature=1.0) if kd_loss_fn is None else kd_loss_fn
        if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
            raise ConfigError('kd_loss_fn: a loss that learns something cannot serve every pair of nets')
        self._adapters = [LossAdapter(loss) for _ in range(len(self.peers) + 1)]
        self._window = Window(start_dur, end_dur)
        self._auxiliary, self._state = AuxiliaryModules(), AuxiliaryState()
        self._form, self._count = BatchFormat(), BatchCount()
        self._model: nn.Module | None = None
        self.evaluation = PeerEvaluation(self.peers)

    @property
    @override
    def window(self) -> Window:
        return self._window

    @override
    def final_metrics(self) -> Mapping[str, float]:
        return self.evaluation.latest

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._state.state_dict()

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state.load_state_dict(state)

    @override
    def match(self, event: Event, state: State) -> bool:
        if event is Event.BATCH_START:
            return self._count.is_needed(state, self._form.split(state.batch)[0])
        return event in (
            Event.INIT,
            Event.BEFORE_LOAD,
            Event.AFTER_LOAD,
            Event.FIT_START,
            Event.AFTER_LOSS,
            *_EVALUATION,
        )

    @override
    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event is Event.AFTER_LOSS:
            self._learn(state)
        elif event is Event.BATCH_START:
            self._count.count(state, self._form.split(state.batch)[0])
        elif event is Event.INIT:
            self._prepare(state)
        elif event is Event.BEFORE_LOAD:
            for peer in self.peers:
                self._auxiliary.take_in(state, peer)
            self._state.before_load(state.model)
        elif event is Event.AFTER_LOAD:
            self._state.after_load()
        elif event is Event.FIT_START:
            self._window.check(state)
            self._auxiliary.follow_replacements()
            self._auxiliary.follow_schedulers(state)
        else:
            self.evaluation.apply(event, state, logger)

    def close(self) -> None:
        """Takes the peers out of the student, which then has its original structure; each stays as it was trained."""
        if self._model is not None:
            self._auxiliary.release(self._model)

    def _prepare(self, state: State) -> None:
        if self._auxiliary.taken:
            raise ConfigError('The peers of this MutualLearning are in an earlier run; make a new one for a new run')
        self._model = state.model
        self._form = self.evaluation.form = BatchFormat.of(state.model)
        self._count = BatchCount(dist.get_world_size(), self._form)
        self._auxiliary.drop_leftovers(state)
        for peer in self.peers:
            peer.join(state)
            self._auxiliary.reserve(state, peer)

    def _learn(self, state: State) -> None:
        """Runs the peers on a microbatch, and sets the sum of all losses."""
        micro = Microbatch.read(state, self._form, self._count)
        precision = partial(get_precision_context, state.precision, state.precision_config)
        logits, tasks = [logits_of(state.outputs, 'the student')], []
        own = parts_of(state.loss)
        tasks.append(_share(scalar_loss(state.loss), state.outputs, micro, logits[0]))
        for peer in self.peers:
            with precision():
                outputs = peer.outputs(micro.batch)
                loss = scalar_loss(peer.loss(outputs, state.batch))
            logits.append(peer.logits(outputs))
            _check_shape(logits[0], logits[-1], peer.name)
            tasks.append(_share(loss, outputs, micro, logits[-1]))
        distances = self._distances(logits, micro) if self._window.is_open(state) else [t.new_zeros(()) for t in tasks]
        total = sum(
            (task * self.org_loss_weight + kd * self.kd_loss_weight for task, kd in zip(tasks, distances)),
            start=torch.zeros((), device=tasks[0].device),
        )
        named: dict[str, Tensor] = {}
        for peer, task, kd in zip(self.peers, tasks[1:], distances[1:]):
            named |= {f'{peer.name}/task': task, f'{peer.name}/kd': kd}
        state.loss = LossParts(total, tasks[0], distances[0], named, own)

    def _distances(self, logits: list[Tensor], micro: Microbatch) -> list[Tensor]:
        """For each net, the mean of the losses between it and each other one."""
        targets = [one.detach() for one in logits]
        found = []
        for number, (adapter, mine) in enumerate(zip(self._adapters, logits)):
            values = []
            for other, target in enumerate(targets):
                if other != number:
                    value, per_position = adapter.of_logits(mine, target, micro)
                    values.append(value if micro.share is None or not per_position else value * micro.share)
            found.append(torch.stack(values).mean())
        return found

    def __repr__(self) -> str:
        return f'MutualLearning({[peer.name for peer in self.peers]}, {self._adapters[0].name})'


def _share(task: Tensor, outputs: Any, micro: Microbatch, logits: Tensor) -> Tensor:
    """A net's own loss of the microbatch, as its share of the whole batch."""
    if micro.task is None or not labels_fit(micro.batch, micro.form, logits):
        return task
    return weighed(task, outputs, micro.task, micro.task_share)


def _check_shape(student: Tensor, peer: Tensor, name: str) -> None:
    if student.shape != peer.shape:
        raise TeacherError(
            f'The peer {name!r} answers in the shape {tuple(peer.shape)}, the student in {tuple(student.shape)}: nets '
            'that learn from one another need the same classes.'
        )
