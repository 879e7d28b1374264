"""The algorithm ``MutualLearning``: several nets train in one run and learn from one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from composer.core import State, get_precision_context
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from composer_kd.algorithms.joint_evaluation import JointEvaluation
from composer_kd.algorithms.joint_net import JointNet
from composer_kd.algorithms.joint_training import JointTraining, fixed_loss
from composer_kd.algorithms.loss_parts import LossParts, share_of_batch, shares_of_parts, weight
from composer_kd.algorithms.peers import Peer, Peers, as_peers
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import ConfigError, TeacherError
from composer_kd.features.outputs import logits_of, scalar_loss
from composer_kd.losses import KLDivergence
from composer_kd.matches.loss_signature import Loss
from composer_kd.schedules import Moment
from composer_kd.teachers import cut, shared_vocabulary

__all__ = ['MutualLearning']


class MutualLearning(JointTraining):
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
        vocabulary: The number of tokens of language models of one tokenizer whose heads are padded to different sizes,
            as for :class:`.Distillation`.

    Raises:
        ConfigError: If a setting is out of range, the run shards the student (FSDP), or it has no single optimizer.
        TeacherError: If the logits of two nets differ in shape.

    Example:
        >>> from torch import nn
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
        *,
        vocabulary: int | None = None,
    ) -> None:
        self.peers = as_peers(peers)
        super().__init__(start_dur, end_dur, _OfPeers(self.peers))
        self.kd_loss_weight = weight('kd_loss_weight', kd_loss_weight)
        self.org_loss_weight = weight('org_loss_weight', org_loss_weight)
        self.vocabulary = vocabulary
        self._classes: int | None = None  # the first of the logits, which are compared; None for all
        loss = KLDivergence(temperature=1.0) if kd_loss_fn is None else kd_loss_fn
        self._adapters = [fixed_loss(loss) for _ in range(len(self.peers) + 1)]

    @override
    def learners(self) -> Sequence[Peer]:
        return self.peers

    @override
    def names(self) -> Sequence[str]:
        return [peer.name for peer in self.peers]

    @override
    def nets(self, batch: Any) -> Mapping[str, JointNet]:
        return {peer.name: JointNet(peer.model.eval(), peer.input_adapter) for peer in self.peers}

    @override
    def trials(self, state: State) -> Iterator[tuple[str, Callable[[Any], Any]]]:
        for number, peer in enumerate(self.peers):
            yield f'peers.{number}: the peer {peer.name!r}', partial(self._try, peer, state)

    def _try(self, peer: Peer, state: State, batch: Any) -> None:
        state.device.module_to_device(peer.model)
        peer.join(state)
        self._classes = self._shared(state)
        logits = self._compared(logits_of(state.model(batch), 'the student'), 'the student')
        was_training = peer.model.training
        peer.model.eval()  # BatchNorm has no statistics of one sample, and keeps its own
        try:
            outputs = peer.outputs(BatchFormat.of(state.model).split(batch)[0])
            _check_shape(logits, self._compared(peer.logits(outputs), f'the peer {peer.name!r}'), peer.name)
        finally:
            peer.model.train(was_training)

    @override
    def join(self, state: State) -> None:
        for peer in self.peers:
            peer.join(state)
        self._classes = self._shared(state)
        self.form = replace(self.form, vocabulary=self._classes)

    def _shared(self, state: State) -> int | None:
        """The number of classes that are compared, the first of the logits; ``None`` for all."""
        if self.vocabulary is not None and self._adapters[0].classes_dim != -1:
            raise ConfigError(
                f'vocabulary={self.vocabulary} cuts classes that come last, and the loss has '
                f'softmax_dim={self._adapters[0].classes_dim}'
            )
        return shared_vocabulary(state.model, self.peers, self.vocabulary, 'peer')

    def _compared(self, logits: Tensor, whose: str) -> Tensor:
        return cut(logits, self._classes, whose)

    @override
    def learn(self, state: State, micro: Microbatch, is_open: bool) -> None:
        logits = [logits_of(state.outputs, 'the student')]
        own = shares_of_parts(state.loss, state.outputs, micro, logits[0])
        tasks = [share_of_batch(scalar_loss(state.loss), state.outputs, micro, logits[0])]
        for peer in self.peers:
            with get_precision_context(state.precision, state.precision_config):
                outputs = peer.outputs(micro.batch)
                loss = scalar_loss(peer.loss(outputs, state.batch))
            logits.append(peer.logits(outputs))
            tasks.append(share_of_batch(loss, outputs, micro, logits[-1]))
        names = ['the student', *(f'the peer {peer.name!r}' for peer in self.peers)]
        logits = [self._compared(one, whose) for one, whose in zip(logits, names)]
        for peer, one in zip(self.peers, logits[1:]):
            _check_shape(logits[0], one, peer.name)
        distances = self._distances(logits, micro) if is_open else [task.new_zeros(()) for task in tasks]
        parts = [task * self.org_loss_weight + kd * self.kd_loss_weight for task, kd in zip(tasks, distances)]
        named: dict[str, Tensor] = {}
        for peer, task, kd in zip(self.peers, tasks[1:], distances[1:]):
            named |= {f'{peer.name}/task': task, f'{peer.name}/kd': kd}
        state.loss = LossParts(torch.stack(parts).sum(), tasks[0], distances[0], named, own)

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


class _OfPeers(JointEvaluation):
    """Evaluates peers."""

    def __init__(self, peers: Sequence[Peer]) -> None:
        super().__init__()
        self._peers = {peer.name: peer for peer in peers}

    @override
    def outputs(self, batch: Any) -> Mapping[str, Any]:
        return {name: peer.evaluated(batch) for name, peer in self._peers.items()}

    @override
    def update(self, name: str, batch: Any, outputs: Any, metric: Metric) -> None:
        self._peers[name].update_metric(batch, outputs, metric)


def _check_shape(student: Tensor, peer: Tensor, name: str) -> None:
    if student.shape != peer.shape:
        raise TeacherError(
            f'The peer {name!r} answers in the shape {tuple(peer.shape)}, the student in {tuple(student.shape)}: nets '
            'that learn from one another need the same classes. Language models of one tokenizer whose heads are '
            'padded to different sizes have its tokens in common: vocabulary=N.'
        )
