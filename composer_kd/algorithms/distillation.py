"""The algorithm ``Distillation``: trains the student of a Composer run on the outputs of its teachers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from composer.algorithms import LabelSmoothing
from composer.core import Event, State, get_precision_context
from composer.loggers import Logger
from composer.utils import dist
from torch import nn
from typing_extensions import override

from composer_kd.algorithms.absent_loss import reads_loss, supply_loss
from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.algorithms.conflicts import (
    refuse_algorithms,
    refuse_classes,
    refuse_dropped_layers,
    refuse_shared,
    renew_copies,
)
from composer_kd.algorithms.fused_head import FusedHead
from composer_kd.algorithms.loss_parts import LossParts, share_of_batch, shares_of_parts, weight
from composer_kd.algorithms.moving_teachers import MovingTeachers
from composer_kd.algorithms.on_policy import OnPolicy
from composer_kd.algorithms.teacher_checks import check_answers, check_data, optimized
from composer_kd.algorithms.teacher_evaluation import TeacherEvaluation
from composer_kd.algorithms.teacher_record import TeacherRecord
from composer_kd.batches.checks import check_alignment, check_one_label
from composer_kd.batches.counts import BatchCount, plus_zero
from composer_kd.batches.format import ATTENDED, LABELLED, BatchFormat
from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import ConfigError, TeacherError
from composer_kd.features.outputs import logits_of, scalar_loss
from composer_kd.matches.auxiliary_state import AuxiliaryState
from composer_kd.matches.criterion import Precision
from composer_kd.matches.dry_run import first_samples
from composer_kd.matches.match import Losses
from composer_kd.matches.routed import make_criterion
from composer_kd.matches.term import misfit
from composer_kd.schedules import Moment, Window
from composer_kd.spans import DISTILLATION_LOSS, labelled
from composer_kd.teachers import (
    NotMeasured,
    Teacher,
    TeacherPool,
    Teachers,
    cut_shape,
    logits_shape,
    own_token_names,
)
from composer_kd.teachers.routing import RouteBy

__all__ = ['Distillation']

# Constants of the module, because `match` runs about fourteen times a step.
_AFTER_LOSS, _BATCH_START, _BEFORE_FORWARD = Event.AFTER_LOSS, Event.BATCH_START, Event.BEFORE_FORWARD
_OCCASIONAL = (Event.INIT, Event.BEFORE_LOAD, Event.AFTER_LOAD, Event.FIT_START, Event.FIT_END)
_EVALUATION = (
    Event.EVAL_START,
    Event.EVAL_BEFORE_FORWARD,
    Event.EVAL_AFTER_FORWARD,
    Event.EVAL_BATCH_END,
    Event.EVAL_END,
)


class Distillation(DistillationAlgorithm):
    r"""Trains the model of a Composer run to reproduce its teachers' outputs (Hinton et al., arXiv 1503.02531).

    In each microbatch the teachers run on the student's inputs, and the model's own loss is replaced by

    .. math:: L_{total} = w_{org} \cdot L_{task} + w_{kd} \cdot L_{kd}(s, t)

    where :math:`s` are the student's logits and :math:`t` the weighted mean of the teachers' logits. With several
    matches, :math:`L_{kd}` is the weighted sum of their losses, on logits or on features (outputs of layers). Composer
    logs ``loss/train/total``, ``loss/train/task`` and ``loss/train/kd`` (the last two before :math:`w_{org}` and
    :math:`w_{kd}`), and each match under its own name, before its weight. Outside the window ``[start_dur, end_dur)``
    the loss is the model's own, and no teacher runs. Weights and temperatures that are schedules are logged as
    ``schedules/<match>/weight`` and ``schedules/<match>/temperature``.

    **Valid positions.** For token models, positions with the label -100 (without labels: with attention mask 0) are
    masked in both losses; in a model that predicts the next token, position ``i`` has the label ``i + 1``. For models
    with one prediction per sample, a sample with the label -100 is masked in the task loss only, so that unlabelled
    samples (a transfer set) can be distilled. The train metrics must then ignore -100 (``MulticlassAccuracy(...,
    ignore_index=-100)``). docs/limits/positions.md has the rules for pixels, decoders and speech, and for where the
    classes are.

    Means run over the valid positions of the whole batch on all ranks, so results are independent of
    ``device_train_microbatch_size`` and of the number of ranks. This assumes that the model's own loss is a mean over
    labels other than -100, and that the first dimension of a batch is its number of samples, by which Composer weights
    microbatches by default. (Composer's ``LabelSmoothing`` smooths labels of -100 too: beside it the model's own loss
    is left as it is, and depends on the microbatches if there are such labels, with a warning.) Labels are the second
    element of an ``(inputs, labels)`` pair, or the entry ``labels`` or ``targets`` of a mapping.

    Args:
        teachers: A module, a list of modules, or ``{checkpoint: module}``, where a checkpoint is a path or URI of a
            Composer checkpoint; each module may also be a :class:`.FrozenTeacher`, which takes an input adapter, or any
            other :class:`.Teacher`. Modules are frozen and moved to the student's device; no optimizer, ``state_dict``
            or checkpoint contains them. An empty list if layers of the student teach others of its layers alone
            (``Match(..., teacher='student')``).
        kd_loss_fn: A function ``(student_logits, teacher_logits) -> scalar``: :class:`.KLDivergence`, a torch loss or
            your own function; or a :class:`.Match`, which adds layers, a weight and a projector; or a list of losses
            and matches. For token models a loss on logits gets the valid positions as rows ``(N, V)`` (to select them,
            the host waits for the accelerator). A loss with a parameter ``mask`` gets all logits and the flat mask of
            valid positions instead, or ``None`` if all positions are valid.
        kd_loss_weight: The weight of the distillation loss, :math:`w_{kd} \ge 0`.
        org_loss_weight: The weight of the model's own loss, :math:`w_{org} \ge 0`. With 0 a model needs no loss of its
            own: a ``HuggingFaceModel`` may be an encoder, or get no labels; ``loss`` of your own may return 0.0.
        start_dur: The start of the window: a fraction of the run (``0.25``, ``'0.25dur'``) or a time (``'10ep'``,
            ``'500ba'``, ``'1000sp'``, ``'1e6tok'``).
        end_dur: The end of the window, in the same forms; a batch that starts at this time is outside.
        n_teachers_to_sample: The number of teachers that run for each batch. They are drawn without replacement, from
            the run's seed and the batch's number; ``None`` for all teachers.
        teacher_weights: A positive weight for each teacher in means over teachers; equal weights if ``None``.
        run_teacher_on_eval: Also log, for each evaluator, the teachers' own metrics as
            ``metrics/<evaluator>/teacher/<metric>``, and the student's agreement with them as
            ``metrics/<evaluator>/agreement/top1`` and ``/kl``.
        positions: Where logits are compared: ``'labelled'`` for the positions with a label (of a masked language model,
            the masked tokens), ``'attended'`` for all that the attention mask includes. The model's own loss keeps its
            positions.
        route: Which teachers teach each sample, if not all: the name of a column of the batch, or a function
            ``(batch, index)``; see :class:`.RoutedCriterion` for the mean. Each teacher runs on its own samples alone.
        fused_head: Whether the heads of language models of transformers are fused with the losses, so that the logits
            of all positions are never in memory: for large vocabularies. The losses stay the same, up to rounding.
            docs/language_models.md says what it needs.
        vocabulary: The number of tokens, where heads are padded to different sizes: of all logits that are compared,
            the first ``vocabulary`` classes are taken before the softmax. ``None`` to take it from the tokenizers where
            that is needed and all models have theirs (``HuggingFaceModel(model, tokenizer)``), else all classes.
        on_policy: Some batches in the window are the student's own text, which the teachers answer for (GKD); see
            :class:`.OnPolicy`. ``None`` for the data alone.

    Raises:
        ConfigError: If a setting is out of range, or another algorithm of the run is incompatible with this one.
        TeacherError: If the logits of a teacher and the student differ in shape (before training where they can be
            measured, else before any optimizer step).
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
        positions: Literal['labelled', 'attended'] = LABELLED,
        route: RouteBy | None = None,
        vocabulary: int | None = None,
        on_policy: OnPolicy | None = None,
        fused_head: bool = False,
    ) -> None:
        if positions not in (LABELLED, ATTENDED):
            raise ConfigError(f'positions must be {LABELLED!r} or {ATTENDED!r}, got {positions!r}')
        self._positions, self.on_policy = positions, on_policy
        self.kd_loss_weight = weight('kd_loss_weight', kd_loss_weight)
        self.org_loss_weight = weight('org_loss_weight', org_loss_weight)
        self._window = Window(start_dur, end_dur)
        self.pool = TeacherPool(teachers, n_teachers_to_sample, teacher_weights)
        self.criterion = make_criterion(kd_loss_fn, self.pool, route, run_teacher_on_eval)
        self.criterion.vocabulary = vocabulary
        self._fused = FusedHead(self.criterion) if fused_head else None
        if run_teacher_on_eval and not self.pool.teachers:
            raise ConfigError('run_teacher_on_eval: there is no teacher beside the student; leave it out')
        if run_teacher_on_eval and (others := own_token_names(self.pool.teachers)):
            raise ConfigError(f'run_teacher_on_eval: {others[0]!r} has another tokenizer than the labels; leave it out')
        must_agree = len(self.criterion.same_logits) == len(self.pool.teachers)
        self.evaluation = TeacherEvaluation(self.pool, self.criterion.classes_dim, must_agree)
        self._evaluates = run_teacher_on_eval
        wanted = [*_OCCASIONAL, *(_EVALUATION if run_teacher_on_eval else ())]
        if self.criterion.is_scheduled:
            wanted.append(Event.AFTER_TRAIN_BATCH)
        if any(term.remembers for term in self.criterion.terms) or self.pool.moving:
            wanted.append(Event.BATCH_END)
        self._moving, self._record = MovingTeachers(self.pool.moving), TeacherRecord(self.pool.teachers)
        self._auxiliary = AuxiliaryState()
        self._events = {id(event) for event in wanted}
        self._fits = False  # whether the shapes of the teachers' logits have been checked
        # What the first labels and the model's own loss settle: each check is made until it returns True.
        self._unsettled: list[Callable[..., bool]] = []
        self._count = BatchCount()
        self._model: nn.Module | None = None
        self._smoothing: LabelSmoothing | None = None
        self._checked_data: Any = None
        self._form = BatchFormat()
        self._every: Sequence[Distillation] = [self]
        self._text = repr(self)

    @property
    @override
    def window(self) -> Window:
        return self._window

    @window.setter
    def window(self, window: Window) -> None:
        self._window = window

    @property
    @override
    def teachers(self) -> Sequence[Teacher]:
        return self.pool.teachers

    @override
    def format_of(self, model: nn.Module) -> BatchFormat:
        route = self.criterion.route
        return BatchFormat.of(model, self._positions, None if route is None else route.column)

    @override
    def trials(self, state: State) -> Iterator[tuple[str, Callable[[Any], Any]]]:
        yield from super().trials(state)
        if self.on_policy is not None:
            yield 'on_policy: the student', partial(self._try_on_policy, state)

    def _try_on_policy(self, state: State, batch: Any) -> None:
        assert self.on_policy is not None
        form = self.format_of(state.model)
        self.on_policy.prepare(state, form, self.pool.teachers, self.criterion.shared_classes(state))
        self.on_policy.trial(state, form.split(batch)[0])

    @override
    def final_metrics(self) -> Mapping[str, float]:
        return self.evaluation.latest

    @override
    def state_dict(self) -> dict[str, Any]:
        counted = OnPolicy.states([one.on_policy for one in self._every])
        return {**self._record.state_dict(), **self._moving.state_dict(), **self._auxiliary.state_dict(), **counted}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._record.load_state_dict(state)
        self._moving.load_state_dict(state)
        self._auxiliary.load_state_dict(state)
        OnPolicy.restore([one.on_policy for one in self._every], state)

    # Composer's interface ---------------------------------------------------------------------------------------------

    @override
    def match(self, event: Event, state: State) -> bool:
        if event is _AFTER_LOSS:
            always = not self._fits or self._fused is not None or self.criterion.auxiliary.are_trained
            return always or self._window.is_open(state)
        if event is _BATCH_START:
            counts = self.on_policy is not None or self._count.is_needed(state, self._form.split(state.batch)[0])
            return counts and self._window.is_open(state)
        if event is _BEFORE_FORWARD:
            return self._fused is not None or (self.criterion.hooks is not None and self._window.is_open(state))
        return id(event) in self._events

    @override
    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event is _AFTER_LOSS:
            if self._window.is_open(state):
                labelled(DISTILLATION_LOSS, self._distil)(state)
            else:
                self._rest(state)
        elif event is _BATCH_START:
            if self.on_policy is not None:
                self.on_policy.start_batch(state, logger)
            self._count.count(state, *self._form.split(state.batch))
        elif event is _BEFORE_FORWARD:
            self._before_forward(state)
        elif event is Event.AFTER_TRAIN_BATCH:
            logger.log_metrics(self.criterion.scheduled())
        elif event is Event.BATCH_END:
            self.criterion.end_batch()
            self.pool.end_batch(state)
        elif event is Event.BEFORE_LOSS:
            self._supply_loss(state)
        elif event is Event.INIT:
            self._prepare(state)
        elif event is Event.BEFORE_LOAD:
            self._check_data(state)
            self._check_prompts(state)
            self._moving.before_load(state)
            refuse_dropped_layers(state, self.criterion)
            with contextlib.nullcontext() if self._fused is None else self._fused.measuring():
                self.criterion.build(state, self._form)
            renew_copies(state)
            self._auxiliary.before_load(state.model)
        elif event is Event.AFTER_LOAD:
            self._moving.after_load(state)
            self._auxiliary.after_load()
        elif event is Event.FIT_START:
            self.log_settings(state, logger)
            refuse_shared(self.pool, optimized(state), 'the optimizer')
            self._window.check(state)
            check_answers(self.pool.teachers, self._window, state)
            self._check_data(state)  # fit() may have been given another loader than the Trainer
            self.criterion.attach(state)
            if self._fused is not None:
                self._fused.check_compiled(state)
        elif event is Event.FIT_END:
            self.criterion.detach()
            self.criterion.poll()
        else:
            self.evaluation.apply(event, state, logger)

    def close(self) -> None:
        """Removes hooks, projectors and learned losses from the student, which then has its original structure.

        Hooks are on the student only while it runs (of a compiled student: until training ends). Before you use a
        student with projectors or learned losses for anything other than more training, call this method, or take
        :func:`composer_kd.students.student_state_dict`, which leaves them out.
        """
        if self._model is not None:
            self.criterion.detach()
            self.criterion.auxiliary.release(self._model)
        if self._fused is not None:
            self._fused.close()

    def _prepare(self, state: State) -> None:
        refuse_algorithms(state, self.criterion)
        refuse_shared(self.pool, state.model.parameters(), 'the student')
        self.pool.prepare(state, self.criterion.vocabulary)
        every = self._every = [one for one in state.algorithms if isinstance(one, Distillation)]
        self._moving.prepared(state, [one._moving for one in every])
        self._record.prepared([one._record for one in every])
        self._form = self.evaluation.form = self.format_of(state.model)
        self.evaluation.of_vectors = bool(getattr(state.model, 'embeds', False))
        if self.evaluation.of_vectors:
            refuse_classes(self.criterion)
        self._count = BatchCount(dist.get_world_size(), self._form, self.criterion.needs_features, self.criterion.route)
        self._model = state.model
        self._checked_data = None
        self._smoothing = next((other for other in state.algorithms if isinstance(other, LabelSmoothing)), None)
        self._fits = False  # this object may have taught another student before
        self._unsettled = [check_alignment, partial(check_one_label, losses=self.criterion.of_softmax)]
        self._events.discard(id(Event.BEFORE_LOSS))
        if reads_loss(state.model):
            self._events.add(id(Event.BEFORE_LOSS))
        self.criterion.prepare(state)
        self._form = replace(self._form, vocabulary=self.pool.vocabulary)
        if self.on_policy is not None:
            if not isinstance(self.on_policy, OnPolicy):
                raise ConfigError(f'on_policy: expected OnPolicy(fraction, max_new_tokens), got {self.on_policy!r}')
            self.on_policy.prepare(state, self._form, self.pool.teachers, self.pool.vocabulary)
            self.on_policy.refuse_losses(self.criterion.of_labels, self.criterion.indexed)
        if self._fused is not None:
            self._fused.prepare(state, self._form)
            self._unsettled = []  # it has found out how the model reads labels

    # One batch --------------------------------------------------------------------------------------------------------

    def _before_forward(self, state: State) -> None:
        if self.criterion.hooks is not None and self._window.is_open(state):
            self.criterion.hooks.open(once=True)
        if self._fused is not None:
            self._fused.open()

    def _supply_loss(self, state: State) -> None:
        is_open = self._window.is_open(state)
        if self._fused is not None:
            supply_loss(state, is_needed=False)
            return
        others = [a for a in state.algorithms if isinstance(a, DistillationAlgorithm) and a is not self]
        if is_open or not others:  # outside the window another one may distil
            supply_loss(state, self.org_loss_weight > 0 or not is_open)

    def _distil(self, state: State) -> None:
        # Smoothed labels, which are put back before or after this event, do not say which positions have one.
        labels = None if self._smoothing is None else self._smoothing.original_labels
        micro = Microbatch.read(state, self._form, self._count, self.criterion.needs_features, labels)
        drawn = self.criterion.draw(state, micro)
        if isinstance(state.loss, LossParts):
            raise ConfigError(
                'Two Distillation objects are active in the same batch. Give all teachers to one of them, or let one '
                'end (end_dur) before the other starts (start_dur).'
            )
        precision = partial(get_precision_context, state.precision, state.precision_config)
        loss = self._of_whole_logits if self._fused is None else self._fused.loss
        is_own = self._is_own(state)
        of_task = 0.0 if is_own else self.org_loss_weight
        parts = loss(state, micro, drawn, precision, of_task, self.kd_loss_weight)
        if is_own:  # the student's loss on its own text says nothing of the task
            del parts['task']
        if not self._fits:
            self._check_fit(state, drawn)
        idle = self.criterion.auxiliary.idle([None, *drawn] if drawn else [])
        if idle is not None:
            parts['total'] = parts['total'] + idle
        state.loss = parts

    def _is_own(self, state: State) -> bool:
        """Whether the batch is the student's own text."""
        return self.on_policy is not None and self.on_policy.is_own(state)

    def _of_whole_logits(
        self, state: State, micro: Microbatch, drawn: Sequence[int], precision: Precision, of_task: float, of_kd: float
    ) -> LossParts:
        student = logits_of(state.outputs, 'the student') if self.criterion.needs_logits else None
        kd, values = self.criterion(state, micro, student, drawn, precision)
        task = scalar_loss(state.loss).to(kd.device)  # a loss may be the number 0.0
        if self._unsettled and student is not None:
            self._unsettled = [c for c in self._unsettled if not c(micro.batch, self._form, student, task)]
        task = share_of_batch(task, state.outputs, micro, student)
        own = {} if self._is_own(state) else shares_of_parts(state.loss, state.outputs, micro, student)
        # A new 0-d tensor, because Composer scales it in place.
        total = torch.add(task * of_task, kd, alpha=of_kd)
        return LossParts(total, task, kd, values if self.criterion.named else {}, own)

    def _rest(self, state: State) -> None:
        """Handles a batch outside the window: checks shapes, and keeps the auxiliary modules in the graph."""
        if self._fused is not None:
            micro = Microbatch.read(state, self._form, self._count)
            precision = partial(get_precision_context, state.precision, state.precision_config)
            state.loss = self._fused.own_loss(state, micro, precision)
        if not self._fits:
            self._check_fit(state)
        idle = self.criterion.auxiliary.idle([])
        if idle is not None:
            state.loss = plus_zero(state.loss, idle)

    def _check_data(self, state: State) -> None:
        """Lets teachers that know samples by their numbers compare the data set with theirs."""
        dataset = getattr(state.train_dataloader, 'dataset', None)
        if dataset is self._checked_data or not isinstance(dataset, Sized):
            return
        self._checked_data = dataset
        check_data(self.pool.teachers, dataset, self._positions)

    def _check_prompts(self, state: State) -> None:
        """Looks for the prompts of the first samples; what cannot be had now is checked in the first batch."""
        if self.on_policy is not None and state.train_dataloader is not None:
            with contextlib.suppress(NotMeasured):
                self.on_policy.check(self._form.split(first_samples(state))[0])

    # Checks -----------------------------------------------------------------------------------------------------------

    def _check_fit(self, state: State, ran: Sequence[int] = ()) -> None:
        """Compares the shapes of logits at the first batch; teachers that did not run are traced on the meta device."""
        due = [index for index in self.criterion.same_logits if index not in ran]
        if due:
            student = self._student_shape(state)
            for teacher in (self.pool.teachers[index] for index in due):
                shape = self._shape_of(teacher, state)
                if shape is not None and shape != student:
                    raise misfit(student, shape, teacher.name)
        others = [t for index, t in enumerate(self.pool.teachers) if index not in self.criterion.same_logits]
        if self._evaluates and others:
            self._expect(state, others)
        self._fits = True

    def _expect(self, state: State, teachers: Sequence[Teacher]) -> None:
        """Tells the evaluation the shapes of logits that training does not compare."""
        with contextlib.suppress(TeacherError):  # a student without logits
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # no match compares these logits, whichever is the first
                student = self._student_shape(state)
            shapes = {teacher.name: self._shape_of(teacher, state) for teacher in teachers}
            self.evaluation.expect(student, {name: s for name, s in shapes.items() if s is not None})

    def _student_shape(self, state: State) -> torch.Size:
        """The shape of the student's logits, of the classes that are compared."""
        if self._fused is not None:
            return self._fused.shape
        return cut_shape(logits_of(state.outputs, 'the student').shape, self.pool.vocabulary, 'the student')

    def _shape_of(self, teacher: Teacher, state: State) -> torch.Size | None:
        """The shape of a teacher's logits for the batch, of the classes that are compared, as far as it is known."""
        shape = logits_shape(teacher, self._form.split(state.batch)[0])
        return None if shape is None else cut_shape(shape, self.pool.vocabulary, f'the teacher {teacher.name!r}')

    def __str__(self) -> str:
        return self._text  # built once: Composer asks for it twice per event

    def __repr__(self) -> str:
        return (
            f'Distillation({self.pool}, {self.criterion.name}, {self.kd_loss_weight}, {self.org_loss_weight}, '
            f'{self._window}, n_teachers_to_sample={self.pool.n_to_sample})'
        )
