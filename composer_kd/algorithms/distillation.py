"""The algorithm: a student learns from teachers while Composer trains it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from composer.core import Event, State, get_precision_context
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor, nn
from typing_extensions import override

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.algorithms.conflicts import refuse_algorithms, refuse_shared
from composer_kd.algorithms.teacher_evaluation import TeacherEvaluation
from composer_kd.batches.counts import BatchCount, plus_zero, weighed
from composer_kd.batches.microbatch import BatchFormat, Microbatch
from composer_kd.errors import ConfigError
from composer_kd.features.outputs import logits_of, scalar_loss
from composer_kd.matches.criterion import Criterion
from composer_kd.matches.match import Losses
from composer_kd.matches.term import misfit
from composer_kd.schedules import Moment, Window
from composer_kd.spans import DISTILLATION_LOSS, labelled
from composer_kd.teachers import Teacher, TeacherPool, Teachers, logits_shape

__all__ = ['Distillation']

# Looked up once: `match` runs about fourteen times a step.
_AFTER_LOSS, _BATCH_START, _BEFORE_FORWARD = Event.AFTER_LOSS, Event.BATCH_START, Event.BEFORE_FORWARD
_OCCASIONAL = (Event.INIT, Event.BEFORE_LOAD, Event.FIT_START, Event.FIT_END)
_EVALUATION = (
    Event.EVAL_START,
    Event.EVAL_BEFORE_FORWARD,
    Event.EVAL_AFTER_FORWARD,
    Event.EVAL_BATCH_END,
    Event.EVAL_END,
)


class Distillation(DistillationAlgorithm):
    r"""Trains the model of a Composer run to answer as its teachers do (Hinton et al., arXiv 1503.02531).

    In each microbatch the frozen teachers see the very inputs that the student saw, and

    .. math:: L_{total} = w_{org} \cdot L_{task} + w_{kd} \cdot L_{kd}(s, t)

    takes the place of the model's own loss, with :math:`t` the mean of the teachers' logits; or :math:`L_{kd}` is the
    weighted sum of several matches, of logits and of what layers show. Composer logs ``loss/train/total``,
    ``loss/train/task`` and ``loss/train/kd`` (before :math:`w_{org}` and :math:`w_{kd}`), and each match under its own
    name, before its weight. Outside the window ``[start_dur, end_dur)`` the loss is the model's own, and no teacher
    runs.

    **What counts.** For token models, positions whose label is -100 (without labels: whose attention mask is 0) count
    in neither loss; for a model that predicts the next token, position ``i`` answers for label ``i + 1``. For models
    that answer once per sample, a sample whose label is -100 counts in the distillation alone: a transfer set without
    labels. Its train metrics must then ignore -100 (``MulticlassAccuracy(..., ignore_index=-100)``).

    Means run over what counts in the whole batch on all ranks, so the numbers depend neither on
    ``device_train_microbatch_size`` nor on the number of ranks. That takes a model's own loss for a mean over labels
    other than -100, and a batch's first dimension for its number of samples, which is how Composer weighs microbatches
    unless told otherwise. Labels are the second of an ``(inputs, labels)`` pair, or ``labels`` or ``targets`` of a
    mapping.

    Args:
        teachers: A module, a list of modules, or ``{checkpoint: module}``, where a checkpoint is a path or URI of a
            Composer checkpoint; each module may also be a :class:`.FrozenTeacher`, which takes an input adapter, or
            any other :class:`.Teacher`. Modules are frozen, moved to the student's device, and appear in no optimizer,
            ``state_dict`` or checkpoint.
        kd_loss_fn: Any ``(student_logits, teacher_logits) -> scalar``: :class:`.KLDivergence`, a torch loss, your own
            function; or a :class:`.Match`, which says more, or a list of losses and matches. For token models a loss of
            logits gets ``(N, V)`` rows, the valid ones alone (to select them makes the host
            wait for an accelerator), unless it has a parameter ``mask``: then it gets all logits and the flat mask of
            valid positions, or ``None`` where all count.
        kd_loss_weight: :math:`w_{kd} \ge 0`.
        org_loss_weight: :math:`w_{org} \ge 0`.
        start_dur: When distillation starts: a fraction of the run (``0.25``, ``'0.25dur'``) or a time (``'10ep'``,
            ``'500ba'``, ``'1000sp'``, ``'1e6tok'``).
        end_dur: When it ends, likewise; the batch that starts then is no longer part of it.
        n_teachers_to_sample: How many teachers answer for each batch, drawn without replacement from the run's seed and
            the batch's number; ``None`` for all.
        teacher_weights: A positive weight for each teacher in the mean of their logits; equal if ``None``.
        run_teacher_on_eval: Also log, for each evaluator, the teachers' own metrics as ``metrics/<evaluator>/teacher/
            <metric>``, and the student's agreement with them as ``metrics/<evaluator>/agreement/top1`` and ``/kl``.

    Raises:
        ConfigError: If a setting is out of range, or another algorithm of the run cannot work with this one.
        TeacherError: If a teacher's logits do not fit the student's (checked at the first batch, before any step).
        CheckpointError: If a teacher's weights cannot be loaded.
        LossError: If the loss returns something other than a finite scalar.

    Example:
        >>> from composer_kd import Distillation, KLDivergence
        >>> Distillation(teachers=torch.nn.Linear(4, 2), kd_loss_fn=KLDivergence(temperature=4.0), end_dur='0.9dur')
        Distillation([Linear], KLDivergence, 0.9, 0.1, Window(start='0.0dur', end='0.9dur'), n_teachers_to_sample=1)
    """

    def __init__(
        self,
        teachers: Teachers,
        kd_loss_fn: Losses,
        kd_loss_weight: float = 0.9,
        org_loss_weight: float = 0.1,
        start_dur: Moment = 0.0,
        end_dur: Moment = 1.0,
        n_teachers_to_sample: int | None = None,
        *,
        teacher_weights: Sequence[float] | None = None,
        run_teacher_on_eval: bool = False,
    ) -> None:
        self.kd_loss_weight = _weight('kd_loss_weight', kd_loss_weight)
        self.org_loss_weight = _weight('org_loss_weight', org_loss_weight)
        self._window = Window(start_dur, end_dur)
        self.pool = TeacherPool(teachers, n_teachers_to_sample, teacher_weights)
        self.criterion = Criterion(kd_loss_fn, self.pool)
        self.evaluation = TeacherEvaluation(self.pool, self.criterion.classes_dim)
        wanted = [*_OCCASIONAL, *(_EVALUATION if run_teacher_on_eval else ())]
        if any(term.remembers for term in self.criterion.terms) or not self.pool.are_frozen:
            wanted.append(Event.BATCH_END)
        self._events = {id(event) for event in wanted}
        self._fits = False  # whether the teachers' logits are known to fit the student's
        self._count = BatchCount()
        self._model: nn.Module | None = None
        self._form = BatchFormat()
        self._text = repr(self)

    @property
    @override
    def window(self) -> Window:
        return self._window

    @property
    @override
    def teachers(self) -> Sequence[Teacher]:
        return self.pool.teachers

    @override
    def final_metrics(self) -> Mapping[str, float]:
        return self.evaluation.latest

    # Composer's two calls ---------------------------------------------------------------------------------------------

    def match(self, event: Event, state: State) -> bool:
        """Whether to run: at ``AFTER_LOSS`` and ``BATCH_START`` inside the window, and at a run's landmarks."""
        if event is _AFTER_LOSS:
            return not self._fits or self._window.is_open(state) or self.criterion.auxiliary.are_trained
        if event is _BATCH_START:
            return self._window.is_open(state) and self._count.is_needed(state, self._form.split(state.batch)[0])
        if event is _BEFORE_FORWARD:
            return self.criterion.hooks is not None and self._window.is_open(state)
        return id(event) in self._events

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Runs the part that belongs to the event."""
        if event is _AFTER_LOSS:
            if self._window.is_open(state):
                labelled(DISTILLATION_LOSS, self._distil)(state)
            else:
                self._rest(state)
        elif event is _BATCH_START:
            self._count.count(state, self._form.split(state.batch)[0])
        elif event is _BEFORE_FORWARD:
            self.criterion.hooks.open()  # type: ignore[union-attr]
        elif event is Event.BATCH_END:
            self.criterion.end_batch()
            self.pool.end_batch(state)
        elif event is Event.INIT:
            self._prepare(state)
        elif event is Event.BEFORE_LOAD:
            self.criterion.build(state)
        elif event is Event.FIT_START:
            refuse_shared(self.pool, _optimized(state), 'the optimizer')
            self._window.check(state)
            self.criterion.attach(state)
        elif event is Event.FIT_END:
            self.criterion.detach()
            self.criterion.poll()
        else:
            self.evaluation.apply(event, state, logger)

    def close(self) -> None:
        """Takes hooks, projectors and learned losses off the student, which is then as it was before.

        The hooks come off by themselves when training ends. Call this before the student is put to other use than
        more training, or take :func:`composer_kd.students.student_state_dict`, which leaves them out.
        """
        if self._model is not None:
            self.criterion.detach()
            self.criterion.auxiliary.release(self._model)

    def _prepare(self, state: State) -> None:
        refuse_algorithms(state)
        refuse_shared(self.pool, state.model.parameters(), 'the student')
        self.pool.prepare(state)
        self._form = self.evaluation.form = BatchFormat.of(state.model)
        self._count = BatchCount(dist.get_world_size(), self._form.shift_labels, self.criterion.needs_features)
        self._model = state.model
        self.criterion.prepare(state)

    # One batch --------------------------------------------------------------------------------------------------------

    def _distil(self, state: State) -> None:
        micro = Microbatch.read(state, self._form, self._count, self.criterion.needs_features)
        drawn = self.pool.draw(state.rank_zero_seed, micro.number)
        if isinstance(state.loss, Mapping) and state.loss.keys() >= {'total', 'task', 'kd'}:
            raise ConfigError(
                'Two Distillation objects are active in the same batch. Give all teachers to one of them, or let one '
                'end (end_dur) before the other starts (start_dur).'
            )
        student = logits_of(state.outputs, 'the student') if self.criterion.needs_logits else None
        precision = partial(get_precision_context, state.precision, state.precision_config)
        kd, values = self.criterion(state, micro, student, drawn, precision)
        if not self._fits:
            self._check_fit(state, drawn)
        task = scalar_loss(state.loss)
        if micro.valid is not None:
            task = weighed(task, state.outputs, micro.valid, micro.share)
        # A new 0-d tensor: Composer scales it in place.
        total = torch.add(task * self.org_loss_weight, kd, alpha=self.kd_loss_weight)
        idle = self.criterion.auxiliary.idle([None, *drawn])
        if idle is not None:
            total = total + idle
        state.loss = {'total': total, 'task': task, 'kd': kd}
        if self.criterion.named:
            state.loss.update(values)

    def _rest(self, state: State) -> None:
        """A batch outside the window."""
        if not self._fits:
            self._check_fit(state)
        idle = self.criterion.auxiliary.idle([])
        if idle is not None:
            state.loss = plus_zero(state.loss, idle)

    # Checks -----------------------------------------------------------------------------------------------------------

    def _check_fit(self, state: State, ran: Sequence[int] = ()) -> None:
        """Compares shapes at the first batch: of all teachers, also those not drawn or due later, which do not run."""
        due = [index for index in self.criterion.same_logits if index not in ran]
        if due:
            student = logits_of(state.outputs, 'the student')
            for teacher in (self.pool.teachers[index] for index in due):
                shape = logits_shape(teacher, self._form.split(state.batch)[0])
                if shape is not None and shape != student.shape:
                    raise misfit(student.shape, shape, teacher.name)
        self._fits = True

    def __str__(self) -> str:
        return self._text  # Composer asks twice per event

    def __repr__(self) -> str:
        return (
            f'Distillation({self.pool}, {self.criterion.name}, {self.kd_loss_weight}, {self.org_loss_weight}, '
            f'{self._window}, n_teachers_to_sample={self.pool.n_to_sample})'
        )


def _weight(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value) or value < 0:
        raise ConfigError(f'{name} must be a finite number of 0 or more, got {value!r}')
    return float(value)


def _optimized(state: State) -> list[Tensor]:
    return [p for optimizer in state.optimizers for group in optimizer.param_groups for p in group['params']]
