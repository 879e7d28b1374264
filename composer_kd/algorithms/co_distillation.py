"""The algorithm ``CoDistillation``: groups of ranks train nets of their own, and teach one another by stale copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from composer.algorithms import LabelSmoothing
from composer.core import Event, State, Time, get_precision_context
from composer.loggers import Logger
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from composer_kd.algorithms.group_checkpoint import GroupCheckpoint
from composer_kd.algorithms.group_conflicts import refuse_beside_groups, warn_of_equal, warn_of_no_exchange
from composer_kd.algorithms.group_evaluation import GroupEvaluation
from composer_kd.algorithms.joint_training import JointTraining, fixed_loss
from composer_kd.algorithms.loss_parts import LossParts, share_of_batch, shares_of_parts, weight
from composer_kd.algorithms.rank_groups import RankGroups, group_of_rank, send, tensors_of
from composer_kd.batches.counts import BatchCount
from composer_kd.batches.microbatch import Microbatch
from composer_kd.batches.parts import size_of
from composer_kd.errors import ConfigError
from composer_kd.features.outputs import logits_of, scalar_loss
from composer_kd.losses import KLDivergence
from composer_kd.matches.loss_signature import Loss
from composer_kd.schedules import Moment
from composer_kd.teachers import FrozenTeacher
from composer_kd.teachers.ema import check_known, positive_time
from composer_kd.teachers.snapshot import is_due
from composer_kd.teachers.student_copy import copy_of

__all__ = ['CoDistillation']

_SETTLING = (Event.FIT_START, Event.EVAL_START, Event.PREDICT_START)
_EVENTS = (Event.BATCH_START, Event.BATCH_END, Event.PREDICT_START, Event.PREDICT_END)


class CoDistillation(JointTraining):
    r"""Trains a net in each group of ranks, on that group's data and on the predictions of the other groups' nets.

    Anil et al., *Large scale distributed neural network training through online distillation* (arXiv 1804.03235). The
    nets are of one architecture. Every ``exchange_every``, each group gets the weights of the others, and keeps them
    as frozen copies :math:`\bar\theta_j` that grow stale until the next exchange. Group :math:`i` minimizes, on its own
    batches (Algorithm 1 of the paper),

    .. math:: w_{org} \cdot \phi(y, F(\theta_i, x)) +
              w_{kd} \cdot \frac{1}{N - 1} \sum_{j \ne i} \psi(F(\bar\theta_j, x), F(\theta_i, x))

    The paper has :math:`\psi` of the mean of the others' predictions; for cross-entropy, KL divergence and squared
    error the gradient is the same. Until the first exchange, and outside the window, the loss is the model's own
    (the paper's burn-in).

    Gradients, buffers, counts and train metrics are those of a group's ranks; clipping, loss scaling and optimizers
    follow. The student is the net of group 0: it is what ``model`` of a checkpoint holds, what is exported, and what
    evaluators measure as ``metrics/<evaluator>/<metric>`` on all of their data; the others are measured there as
    ``metrics/<evaluator>/group-1/<metric>`` and so on. Logged are ``loss/train/task`` and ``kd`` of the student,
    ``loss/train/group-1/task`` and ``kd`` of each other net, and the mean of all totals as ``loss/train/total``. Every
    net, optimizer and stale copy is in the run's checkpoints (``save_weights_only`` keeps the student alone), and
    :meth:`networks` returns all nets.

    Each group starts from the weights that the model has on the group's first rank: build it there from a seed of its
    own, with :attr:`group`. A YAML run does so. Ranks get shards of the data by their sampler
    (``composer.utils.dist.get_sampler``): with ``shuffle=True``, other shards in each epoch.

    Args:
        exchange_every: The time between exchanges, until the window ends: batches (``'100ba'``) or epochs (``'1ep'``).
        groups: The number of groups, of which the run's ranks are a multiple; neighbouring ranks are in one group.
        kd_loss_fn: :math:`\psi`, a loss of ``(student_logits, teacher_logits)``; ``None`` for
            ``KLDivergence(temperature=1.0)``.
        kd_loss_weight: :math:`w_{kd} \ge 0`.
        org_loss_weight: :math:`w_{org} \ge 0`.
        start_dur: The start of the window in which the nets learn from one another, in the forms of
            :class:`.Distillation`.
        end_dur: Its end.

    Raises:
        ConfigError: If a setting is out of range, the run has one process or no multiple of ``groups``, shards its
            model (FSDP, tensor parallelism), or has an algorithm that assumes one net on all ranks.
        TeacherError: If exchanges are by epochs, and the training data says no length.
        CheckpointError: If a checkpoint is of another number of groups.

    Example:
        >>> CoDistillation(exchange_every='100ba', groups=2, kd_loss_fn=KLDivergence(temperature=2.0))
        CoDistillation(exchange_every='100ba', groups=2, KLDivergence)
    """

    evaluation: GroupEvaluation

    def __init__(
        self,
        exchange_every: str | Time = '100ba',
        groups: int = 2,
        kd_loss_fn: Loss | None = None,
        kd_loss_weight: float = 1.0,
        org_loss_weight: float = 1.0,
        start_dur: Moment = 0.0,
        end_dur: Moment = 1.0,
    ) -> None:
        self._ranks = RankGroups(groups)
        super().__init__(start_dur, end_dur, GroupEvaluation(self._ranks))
        self.exchange_every = positive_time('CoDistillation', 'exchange_every', exchange_every)
        self.kd_loss_weight = weight('kd_loss_weight', kd_loss_weight)
        self.org_loss_weight = weight('org_loss_weight', org_loss_weight)
        self._adapter = fixed_loss(KLDivergence(temperature=1.0) if kd_loss_fn is None else kd_loss_fn)
        self._checkpoint = GroupCheckpoint(self._ranks)
        self._run: State | None = None
        self._copies: dict[int, FrozenTeacher] = {}  # of the other groups' nets
        self._taught = False  # whether there has been an exchange
        self._tried = False  # whether the loss between nets has been computed once
        self._kept: list[Tensor] | None = None  # this group's weights, while Composer wraps the model
        self._share: Tensor | None = None
        self._smoothing: LabelSmoothing | None = None

    @property
    def group(self) -> int:
        """The group of this process, from 0; known before the Trainer is made."""
        return self._ranks.own

    @classmethod
    @override
    def student_seed(cls, seed: int, options: Mapping[str, Any]) -> int:
        return seed + group_of_rank(options.get('groups', 2))

    def networks(self) -> list[dict[str, Tensor]]:
        """The nets of all groups as they are now, as state dicts on the host; a collective call: on every rank.

        Returns:
            By group, the state dict of a model like the student.
        """
        if self._run is None:
            raise ConfigError('CoDistillation has no nets yet: call networks() when the Trainer has been made')
        self._settle(self._run)
        with self.evaluation.interrupted():
            net = copy_of(self._run.model)
        own, found = [tensor.detach().clone() for tensor in tensors_of(net).values()], []
        for number in range(self._ranks.count):
            _fill(net, own)
            send(list(tensors_of(net).values()), self._ranks.leader(number))
            found.append({name: value.detach().cpu().clone() for name, value in net.state_dict().items()})
        return found

    # What JointTraining asks for --------------------------------------------------------------------------------------

    @override
    def learners(self) -> tuple[()]:
        return ()

    @override
    def refuse(self, state: State) -> None:
        refuse_beside_groups(state, self)
        self._ranks.start()

    @override
    def counter(self) -> BatchCount:
        return BatchCount(self._ranks.size, self.form, group=self._ranks.process_group)

    @override
    def join(self, state: State) -> None:
        self._run, self._copies, self._taught, self._tried, self._kept = state, {}, False, False, None
        self._smoothing = next((other for other in state.algorithms if isinstance(other, LabelSmoothing)), None)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._run is None:
            return {}
        self._settle(self._run)
        with self.evaluation.interrupted():
            return self._checkpoint.save(self._run, self._modules() if self._taught else {})

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._checkpoint.load(state)

    @override
    def match(self, event: Event, state: State) -> bool:
        return event in _EVENTS or super().match(event, state)

    @override
    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event in _SETTLING:
            self._settle(state)
        if event is Event.AFTER_LOSS:
            # The smoothed labels, which are put back before or after this event, do not say which positions have one.
            labels = None if self._smoothing is None else self._smoothing.original_labels
            micro = Microbatch.read(state, self.form, self._count, labels=labels)
            self.learn(state, micro, self._window.is_open(state))
        elif event is Event.BATCH_END:
            self._end_batch(state)
        elif event is Event.PREDICT_START:
            self.evaluation.lend(state.model)
        elif event is Event.PREDICT_END:
            self.evaluation.give_back()
        else:
            if event is Event.BATCH_START:
                self._start_batch(state)
            if event is not Event.BATCH_START or super().match(event, state):
                super().apply(event, state, logger)
        if event is Event.AFTER_LOAD:
            self._after_load(state)
        elif event is Event.FIT_START:
            self._start_fit(state)

    @override
    def learn(self, state: State, micro: Microbatch, is_open: bool) -> None:
        logits = logits_of(state.outputs, 'the student')
        task = share_of_batch(scalar_loss(state.loss), state.outputs, micro, logits)
        own = shares_of_parts(state.loss, state.outputs, micro, logits)
        kd = task.new_zeros(())
        total = task * 1.0  # a new tensor, because Composer scales it in place
        if not self._tried:
            self._try(micro, logits)
        if is_open and self._taught:
            kd = self._distance(state, micro, logits)
            total = task * self.org_loss_weight + kd * self.kd_loss_weight
        if self._share is not None:
            total, task, kd = total * self._share, task * self._share, kd * self._share
            own = {name: part * self._share for name, part in own.items()}
        named: dict[str, Tensor] = {}
        for number in range(1, self._ranks.count):
            named |= {f'group-{number}/task': self._of(number, task), f'group-{number}/kd': self._of(number, kd)}
        own = {name: self._of(0, part) for name, part in own.items()}
        state.loss = LossParts(total, self._of(0, task), self._of(0, kd), named, own)

    def _try(self, micro: Microbatch, logits: Tensor) -> None:
        """Computes the loss between nets in the first batch, because a wrong one would fail at the first exchange."""
        self._tried = True
        with torch.random.fork_rng([logits.device] if logits.is_cuda else []):
            self._adapter.detached_copy().of_logits(logits, logits.detach(), micro)

    def _distance(self, state: State, micro: Microbatch, logits: Tensor) -> Tensor:
        """The mean of the losses between this group's net and each stale copy."""
        values = []
        for teacher in self._copies.values():
            with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
                target = logits_of(teacher.outputs(micro.batch, micro.index), teacher.name)
            value, per_position = self._adapter.of_logits(logits, target, micro)
            values.append(value if micro.share is None or not per_position else value * micro.share)
        return torch.stack(values).mean()

    def _of(self, number: int, value: Tensor) -> Tensor:
        """What each rank logs so that the mean over all ranks, which Composer takes, is that of one group."""
        value = value.detach()
        return value * self._ranks.count if number == self._ranks.own else torch.zeros_like(value)

    # One batch --------------------------------------------------------------------------------------------------------

    def _start_batch(self, state: State) -> None:
        self._ranks.averaged = False
        self._ranks.send_buffers(state.model)
        samples = size_of(state.batch)
        self._share = None if samples is None else self._ranks.share_of_group(samples, state)

    def _end_batch(self, state: State) -> None:
        if not self._ranks.averaged:
            raise ConfigError(
                'CoDistillation: Composer averaged the gradients by itself, over all ranks (ddp_sync_strategy='
                "'forced_sync'). Leave ddp_sync_strategy out, or take 'single_auto_sync' or 'multi_auto_sync'."
            )
        # What follows the window is not taught by what would be exchanged.
        if is_due(self.exchange_every, state, repr(self)) and not self._window.has_ended(state):
            self._exchange(state)

    def _exchange(self, state: State) -> None:
        """Sends each group's weights to the other groups."""
        for number in range(self._ranks.count):
            net = state.model if number == self._ranks.own else self._copies[number].model
            send(list(tensors_of(net).values()), self._ranks.leader(number))
        self._taught = True

    # The start of a run -----------------------------------------------------------------------------------------------

    def _after_load(self, state: State) -> None:
        """Makes the copies, restores the groups' nets, and keeps this one: Composer now sends that of rank 0 to all."""
        for number in range(self._ranks.count):
            if number != self._ranks.own:
                self._copies[number] = FrozenTeacher(copy_of(state.model), name=f'group-{number}')
                self._copies[number].prepare(state)
        self._taught = self._checkpoint.restore(state, self._modules())
        tensors = list(tensors_of(state.model).values())
        send(tensors, self._ranks.leader(self._ranks.own), self._ranks.process_group)
        self._kept = [tensor.detach().clone() for tensor in tensors]
        warn_of_equal(state)

    def _settle(self, state: State) -> None:
        """Puts this group's net back into the model that Composer has wrapped, and takes over its averages; once."""
        if self._kept is None:
            return
        self._ranks.take(state.model)
        _fill(state.model, self._kept)
        self._kept = None
        for metric in (state.train_metrics or {}).values():
            for part in metric.modules():
                if isinstance(part, Metric):
                    part.process_group = self._ranks.process_group

    def _start_fit(self, state: State) -> None:
        self.evaluation.give_back()
        check_known(self.exchange_every, state, repr(self))
        if not self._taught:
            warn_of_no_exchange(state, self.exchange_every, self._window)

    def _modules(self) -> dict[int, nn.Module]:
        return {number: teacher.model for number, teacher in self._copies.items()}

    def __repr__(self) -> str:
        return (
            f'CoDistillation(exchange_every={self.exchange_every.to_timestring()!r}, groups={self._ranks.count}, '
            f'{self._adapter.name})'
        )


def _fill(net: nn.Module, values: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors_of(net).values(), values):
            tensor.copy_(value)
