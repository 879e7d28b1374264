"""The algorithm: a student learns from teachers while Composer trains it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence

import torch
from composer.core import Algorithm, Event, State, get_precision_context
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor, nn

from composer_kd.errors import ConfigError, TeacherError
from composer_kd.evaluation import TeacherEvaluation
from composer_kd.matching import Comparison, Loss
from composer_kd.observation import Valid, all_valid, logits_of, samples_of, scalar_loss, valid_of
from composer_kd.schedules import Moment, Window
from composer_kd.teachers import FrozenTeacher, TeacherPool, logits_shape

__all__ = ['Distillation']

# Looked up once: `match` runs about fourteen times a step.
_AFTER_LOSS, _BATCH_START = Event.AFTER_LOSS, Event.BATCH_START
_OCCASIONAL = (Event.INIT, Event.FIT_START, Event.FIT_END)
_EVALUATION = (
    Event.EVAL_START,
    Event.EVAL_BEFORE_FORWARD,
    Event.EVAL_AFTER_FORWARD,
    Event.EVAL_BATCH_END,
    Event.EVAL_END,
)


class Distillation(Algorithm):
    r"""Trains the model of a Composer run to answer as its teachers do (Hinton et al., arXiv 1503.02531).

    In each microbatch the frozen teachers see the very inputs that the student saw, and

    .. math:: L_{total} = w_{org} \cdot L_{task} + w_{kd} \cdot L_{kd}(s, t)

    takes the place of the model's own loss, with :math:`t` the mean of the teachers' logits. Composer logs the three as
    ``loss/train/total``, ``loss/train/task`` and ``loss/train/kd`` (the last two unweighted). Outside the window
    ``[start_dur, end_dur)`` the loss is the model's own and no teacher runs.

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
            Composer checkpoint; each module may also be a :class:`.FrozenTeacher`, which takes an input adapter. They
            are frozen, moved to the student's device, and appear in no optimizer, ``state_dict`` or checkpoint.
        kd_loss_fn: Any ``(student_logits, teacher_logits) -> scalar``: :class:`.KLDivergence`, a torch loss, your own
            function. For token models it gets ``(N, V)`` rows, the valid ones alone (to select them makes the host
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
        teachers: nn.Module | FrozenTeacher | Sequence[nn.Module | FrozenTeacher] | Mapping[str, nn.Module],
        kd_loss_fn: Loss,
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
        self.window = Window(start_dur, end_dur)
        self.comparison = Comparison(kd_loss_fn)
        self.pool = TeacherPool(teachers, n_teachers_to_sample, teacher_weights)
        self.evaluation = TeacherEvaluation(self.pool, self.comparison.classes_dim)
        self._events = {id(event) for event in _OCCASIONAL + (_EVALUATION if run_teacher_on_eval else ())}
        self._predicts_next = False  # whether position i answers for label i + 1
        self._fits = False  # whether the teachers' logits are known to fit the student's
        # The number of the batch that was counted, and its valid positions per sample; None: all count alike.
        self._counted: tuple[int, Tensor | None] = (-1, None)
        self._world_size = 1
        self._text = repr(self)

    # Composer's two calls ---------------------------------------------------------------------------------------------

    def match(self, event: Event, state: State) -> bool:
        """Whether to run: at ``AFTER_LOSS`` and ``BATCH_START`` inside the window, and at a run's landmarks."""
        if event is _AFTER_LOSS:
            return not self._fits or self.window.is_open(state)
        if event is _BATCH_START:
            return self.window.is_open(state) and self._is_cut(state)
        return id(event) in self._events

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Runs the part that belongs to the event."""
        if event is _AFTER_LOSS:
            if self.window.is_open(state):
                self._distil(state)
            else:
                self._check_fit(state)
        elif event is _BATCH_START:
            self._counted = state.timestamp.batch.value, self._count(state)
        elif event is Event.INIT:
            self._prepare(state)
        elif event is Event.FIT_START:
            self._check_not_shared(_optimized(state), 'the optimizer')
            self.window.check(state)
        elif event is Event.FIT_END:
            self.comparison.watch.poll(wait=True)
        else:
            self.evaluation.apply(event, state, logger)

    def _prepare(self, state: State) -> None:
        self._check_algorithms(state)
        self._check_not_shared(state.model.parameters(), 'the student')
        self.pool.prepare(state.device)
        if isinstance(self.comparison.loss, nn.Module):
            state.device.module_to_device(self.comparison.loss)
        self._world_size = dist.get_world_size()
        # A HuggingFaceModel for causal language modelling says so.
        self._predicts_next = bool(getattr(state.model, 'shift_labels', False))

    # One batch --------------------------------------------------------------------------------------------------------

    def _is_cut(self, state: State) -> bool:
        """Whether ranks or microbatches share the batch, so that what counts must be counted as a whole."""
        if self._world_size > 1 or state.auto_microbatching:
            return True
        samples, size = samples_of(state.batch), state.device_train_microbatch_size
        return samples is not None and isinstance(size, numbers.Real) and samples > size

    def _count(self, state: State) -> Tensor | None:
        """Valid positions per sample of the whole batch, over all ranks; ``None`` where all of them count alike."""
        if self._world_size == 1 and all_valid(state.batch, self._predicts_next):
            return None
        valid = valid_of(state.batch, self._predicts_next)
        if valid is None or valid.mask is None:
            return None
        both = torch.stack([valid.count.float(), torch.full_like(valid.count, valid.size, dtype=torch.float32)])
        both = state.device.tensor_to_device(both)
        if self._world_size > 1:
            dist.all_reduce(both, reduce_operation='SUM')
        return (both[0] / both[1]).clamp_min(torch.finfo(torch.float32).tiny)

    def _distil(self, state: State) -> None:
        batch, number = state.batch, state.timestamp.batch.value
        student = logits_of(state.outputs, 'the student')
        drawn = self.pool.draw(state.rank_zero_seed, number)
        with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
            teacher = self.pool(batch, drawn)
        if teacher.shape != student.shape:
            raise self._misfit(student.shape, teacher.shape, ' and '.join(self.pool.teachers[i].name for i in drawn))
        if not self._fits:
            self._check_fit(state, drawn)
        if isinstance(state.loss, Mapping) and state.loss.keys() == {'total', 'task', 'kd'}:
            raise ConfigError(
                'Two Distillation objects are active in the same batch. Give all teachers to one of them, or let one '
                'end (end_dur) before the other starts (start_dur).'
            )
        per_sample = self._counted[1] if self._counted[0] == number else None
        # Where the whole batch counts alike, so does every part of it.
        shift = self._predicts_next
        valid = None if per_sample is None and all_valid(batch, shift) else valid_of(batch, shift)
        kd, per_position = self.comparison(student, teacher, batch, valid, number)
        task = scalar_loss(state.loss)
        if valid is not None:
            kd, task = self._weigh(kd, task, student, valid, per_sample, per_position)
        # A new 0-d tensor: Composer scales it in place.
        total = torch.add(task * self.org_loss_weight, kd, alpha=self.kd_loss_weight)
        state.loss = {'total': total, 'task': task, 'kd': kd}

    def _weigh(
        self, kd: Tensor, task: Tensor, student: Tensor, valid: Valid, per_sample: Tensor | None, per_position: bool
    ) -> tuple[Tensor, Tensor]:
        """Corrects means over the valid positions here to their part in the mean over the whole batch."""
        if valid.mask is None and per_sample is None:
            return kd, task  # targets that are no class labels: of several labels at once, or of a regression
        share = None if per_sample is None else valid.share(per_sample)
        if share is not None and per_position:
            kd = kd * share
        if not valid.from_labels:
            return kd, task
        # A mean over no label is NaN, and so may its gradient be, whatever it is multiplied by.
        if task.device.type == 'cpu' and not valid.count:
            return kd, student.sum() * 0.0
        task = task if share is None else task * share
        # Elsewhere, to read the count would make the host wait. The gradient of cross-entropy is 0 there, not NaN.
        return kd, task if task.device.type == 'cpu' else torch.where(valid.count > 0, task, torch.zeros_like(task))

    # Checks -----------------------------------------------------------------------------------------------------------

    def _check_algorithms(self, state: State) -> None:
        for algorithm in state.algorithms:
            if getattr(algorithm, 'interpolate_loss', False):
                name = type(algorithm).__name__
                raise ConfigError(
                    f'{name}(interpolate_loss=True) replaces the loss after Distillation has set it, so the two cannot '
                    f'be combined. Use {name}(interpolate_loss=False), which mixes the labels instead.'
                )

    def _check_not_shared(self, parameters: Iterable[Tensor], owner: str) -> None:
        theirs = {id(parameter) for parameter in parameters}
        for teacher in self.pool.teachers:
            if any(id(parameter) in theirs for parameter in teacher.model.parameters()):
                raise TeacherError(
                    f'The teacher {teacher.name!r} shares parameters with {owner}, so it would not stay as it is. '
                    'Give a copy (copy.deepcopy), and optimize the student alone.'
                )

    def _check_fit(self, state: State, ran: Sequence[int] = ()) -> None:
        """Compares shapes at the first batch: of all teachers, also those not drawn or due later, which do not run."""
        student = logits_of(state.outputs, 'the student')
        for index, teacher in enumerate(self.pool.teachers):
            shape = None if index in ran else logits_shape(teacher, state.batch)
            if shape is not None and shape != student.shape:
                raise self._misfit(student.shape, shape, teacher.name)
        self._fits = True

    def _misfit(self, student: torch.Size, teacher: torch.Size, name: str) -> TeacherError:
        return TeacherError(
            f'The teacher {name!r} answers in the shape {tuple(teacher)}, the student in {tuple(student)}. Their '
            'logits must agree in shape, and mean the same classes in the same order. Was the teacher built for '
            'another number of classes, or does it need other inputs (FrozenTeacher(model, input_adapter=...))?'
        )

    def __str__(self) -> str:
        return self._text  # Composer asks twice per event

    def __repr__(self) -> str:
        return (
            f'Distillation({self.pool}, {self.comparison.name}, {self.kd_loss_weight}, {self.org_loss_weight}, '
            f'{self.window}, n_teachers_to_sample={self.pool.n_to_sample})'
        )


def _weight(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value) or value < 0:
        raise ConfigError(f'{name} must be a finite number of 0 or more, got {value!r}')
    return float(value)


def _optimized(state: State) -> list[Tensor]:
    return [p for optimizer in state.optimizers for group in optimizer.param_groups for p in group['params']]
