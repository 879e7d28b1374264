"""A student whose head is fused with its losses: the logits of a batch are never whole in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from composer.core import State
from composer.models import HuggingFaceModel
from torch import Tensor

from composer_kd.algorithms.absent_loss import reads_loss
from composer_kd.algorithms.fused_conflicts import check_layers, check_term, refuse_readers
from composer_kd.algorithms.loss_parts import LossParts
from composer_kd.batches.checks import check_marks
from composer_kd.batches.contents import IGNORE
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.layout import Layout
from composer_kd.batches.masks import compares_labelled
from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import ConfigError
from composer_kd.features.hook_calls import is_compiled
from composer_kd.features.linear_head import LinearHead
from composer_kd.features.outputs import logits_of
from composer_kd.losses.linear_logits import AnyLogits, LinearLogits
from composer_kd.matches.binding import layers_of
from composer_kd.matches.criterion import Criterion, Precision, weighted_mean
from composer_kd.matches.one_pass import OnePass, RowLoss, cross_entropy, is_mean_over_rows
from composer_kd.matches.part import Part
from composer_kd.matches.term import LossTerm, misfit
from composer_kd.teachers import cut_shape

__all__ = ['FusedHead']


class FusedHead:
    """Computes the losses of a run from the student's hidden states, with its head, in chunks of positions.

    Args:
        criterion: The distillation loss.

    Raises:
        ConfigError: If a match of logits cannot be taken in chunks.

    Attributes:
        shape: The shape of the student's logits in the last forward pass, of the classes that are compared.
    """

    def __init__(self, criterion: Criterion) -> None:
        self._criterion = criterion
        criterion.defers_logits = True
        self._head: LinearHead | None = None
        self.shape = torch.Size()
        for term in criterion.terms:
            check_term(term)
        if criterion.route is not None:
            raise ConfigError(
                f'fused_head and {criterion.route!r}: samples would have passes of their own. Leave one of the two out'
            )

    def prepare(self, state: State, form: BatchFormat) -> None:
        """At ``INIT``: finds the heads of student and teachers, and refuses what needs logits of all positions.

        Raises:
            ConfigError: If the student has no linear head, or another loss than the cross-entropy of its labels; or
                something else in the run reads its logits.
        """
        model: Any = state.model
        if not isinstance(model, HuggingFaceModel) or not reads_loss(model):
            raise ConfigError(
                'fused_head: expected a HuggingFaceModel with the loss of its net (hf_causal_lm, hf_masked_lm), got '
                f'{type(model).__name__}. Leave fused_head out'
            )
        if state.fsdp_config is not None or state.tp_config is not None:
            raise ConfigError(
                'fused_head: the student is sharded, and the weights of its head are there in its forward pass alone. '
                'Leave out fused_head, or parallelism_config'
            )
        if form.ignore_index != IGNORE:
            raise ConfigError(
                f'fused_head: the model ignores the label {form.ignore_index}, and models of transformers ignore '
                f'{IGNORE} alone. Let the data mark what does not count by {IGNORE}'
            )
        refuse_readers(state)
        for teacher in self._criterion.pool.teachers:
            if getattr(teacher, 'whole_batches', False):
                raise ConfigError(
                    f"fused_head: the teacher {teacher.name!r} reads the student's logits, of which there are none. "
                    'Leave one of the two out'
                )
        self._head = LinearHead(model, 'the student', form.shift_labels)
        check_layers(model, self._criterion.student_layers, '')
        classes = self._criterion.pool.vocabulary or self._head.classes
        device = next(model.parameters()).device
        for term in self._criterion.terms:
            if term.match.on_logits and not is_mean_over_rows(term.adapter, classes, device):
                raise ConfigError(
                    f'fused_head: the loss of the match {term.match.name!r} is no mean over positions, so it cannot be '
                    "taken in chunks of them. For a torch loss use reduction='mean'; or leave fused_head out"
                )
        self._criterion.pool.find_heads()
        self._check_classes(classes)
        self._check_teachers_layers()

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Inside a ``with`` block the next forward passes of student and teachers make the logits of no position."""
        assert self._head is not None
        with self._head.recording(), self._criterion.pool.without_products():
            yield
        self._head.close()

    def check_compiled(self, state: State) -> None:
        """At ``FIT_START``: refuses a compiled student.

        Raises:
            ConfigError: If it is.
        """
        if is_compiled(state.model):
            raise ConfigError(
                'fused_head: the student is compiled, and its code sees no hooks. Leave out fused_head, or '
                'compile_config'
            )

    def open(self) -> None:
        """At ``BEFORE_FORWARD``: lets the next forward pass keep the hidden states, and make no logits."""
        assert self._head is not None
        self._head.open()

    def close(self) -> None:
        """Removes the hooks that an interrupted forward pass has left."""
        if self._head is not None:
            self._head.close()

    def loss(
        self, state: State, micro: Microbatch, drawn: Sequence[int], precision: Precision, of_task: float, of_kd: float
    ) -> LossParts:
        """The loss of a microbatch inside the window.

        Args:
            state: The state of the run.
            micro: The microbatch.
            drawn: The numbers of the teachers that run for it.
            precision: Makes the precision context of the run.
            of_task: The weight of the model's own loss.
            of_kd: The weight of the distillation loss.
        """
        criterion = self._criterion
        student = self._taken(state)
        layout = micro.layout(torch.empty(self.shape, device='meta'))
        check_marks(micro.batch, micro.form, layout, micro.valid)
        together = OnePass(student, micro.labels)
        task = self._task(micro, of_task, layout)
        if task is not None:
            together.add(task)
        part = Part(micro, None, criterion.student_features(), drawn)
        with criterion.pool.keeping_heads():
            found = criterion.compared(state, part, precision, _Asked)
        matches = [match for match in criterion.matches if match.name in found]  # the others' teachers were not drawn
        factors = {match.name: criterion.weight_of(match, state) for match in matches}
        features = {m.name: weighted_mean(found[m.name]) for m in matches if not m.on_logits}
        mask = _mask_of_logits(micro, layout, task)
        share = 1.0 if micro.share is None or not layout.per_position else micro.share
        for match in (match for match in matches if match.on_logits):
            whole = sum(weight for weight, _ in found[match.name])
            for weight, asked in found[match.name]:
                asked.term.check_fit(self.shape, asked.teacher.shape, asked.whose)
                of_rows = partial(self._of_rows, state, micro.number, asked)
                portion, factor = share * (weight / whole), of_kd * factors[match.name]
                together.add(RowLoss(match.name, of_rows, mask, portion, factor, asked.teacher))
        with precision():
            total, values = together()
        kd = torch.zeros_like(total, requires_grad=False)
        for name, factor in factors.items():
            kd = kd + (features[name] if name in features else values[name]) * factor
        for name, value in features.items():
            total = total + value * (factors[name] * of_kd)
        own = values.pop('task', torch.zeros_like(kd))
        return LossParts(total, own, kd.detach(), {**values, **features} if criterion.named else {}, {})

    def own_loss(self, state: State, micro: Microbatch, precision: Precision) -> Tensor:
        """The model's own loss of a microbatch outside the window."""
        student = self._taken(state)
        layout = micro.layout(torch.empty(student.shape, device='meta'))
        together = OnePass(student, micro.labels)
        task = self._task(micro, 1.0, layout)
        assert task is not None
        together.add(RowLoss(task.name, task.of_rows, task.mask))
        with precision():
            return together()[0]

    def _taken(self, state: State) -> LinearLogits:
        assert self._head is not None
        student = self._head.take()
        if logits_of(state.outputs, 'the student').numel():
            raise ConfigError(
                "fused_head: something else ran the student before its forward pass (at BEFORE_FORWARD), in that one's "
                'place. Let it run at BATCH_START or earlier, or leave fused_head out'
            )
        self.shape = cut_shape(student.shape, self._criterion.pool.vocabulary, 'the student')
        return student

    def _task(self, micro: Microbatch, weight: float, layout: Layout) -> RowLoss | None:
        if micro.labels is None:
            if weight > 0:
                raise ConfigError(
                    'The batch has no labels, of which the model would compute its own loss. To train by teachers '
                    'alone give org_loss_weight=0 and leave start_dur and end_dur as they are.'
                )
            return None
        share = 1.0 if micro.task_share is None else micro.task_share
        return RowLoss('task', cross_entropy, layout.mask(micro.task), share, weight)

    def _of_rows(
        self, state: State, number: int, asked: _Asked, student: Tensor, teacher: Any, labels: Tensor | None
    ) -> Tensor:
        """A match at some positions, which are told to its loss as samples."""
        rows = student[:, : self.shape[-1]]
        batch = {'logits': rows} if labels is None else (rows, labels)
        return asked.term.of_logits(state, rows, teacher, Microbatch(batch, number), asked.whose)

    def _check_classes(self, classes: int) -> None:
        """Refuses teachers that are known to have a head of another size."""
        pool = self._criterion.pool
        for number in sorted(self._criterion.same_logits):
            theirs = pool.head_size(number)
            if pool.vocabulary is None and theirs not in (None, classes):
                assert theirs is not None
                raise misfit(torch.Size([classes]), torch.Size([theirs]), pool.teachers[number].name)

    def _check_teachers_layers(self) -> None:
        """Refuses matches of the head of a teacher that is kept from making logits."""
        pool = self._criterion.pool
        for number, layers in self._criterion.teacher_layers.items():
            if pool.head_size(number) is not None:
                teacher = pool.teachers[number]
                check_layers(layers_of(teacher), layers, f' of the teacher {teacher.name!r}')


class _Asked(NamedTuple):
    """A comparison of logits that is still to be made.

    Attributes:
        term: The loss term.
        teacher: What the teacher says at all positions.
        whose: The numbers of the teachers.
    """

    term: LossTerm
    teacher: AnyLogits
    whose: Sequence[int]


def _mask_of_logits(micro: Microbatch, layout: Layout, task: RowLoss | None) -> Tensor | None:
    """The mask of compared positions: the same tensor as that of the task where both are the labelled ones."""
    if task is not None and compares_labelled(micro.batch, micro.form):
        return task.mask
    return layout.mask(micro.valid)
