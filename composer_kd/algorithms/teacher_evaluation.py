"""Evaluates the teachers beside the student, and measures the student's agreement with them."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from composer.core import Event, State, get_precision_context
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import MeanMetric, Metric

from composer_kd.algorithms.vector_agreement import VectorAgreement
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.layout import Layout, layout_of, several_labels
from composer_kd.batches.masks import valid_of
from composer_kd.errors import TeacherError, is_of_device
from composer_kd.features.outputs import logits_of
from composer_kd.losses import kl_divergence
from composer_kd.teachers import TeacherPool, cut

__all__ = ['TeacherEvaluation', 'updates_of']

_SEVERAL = 'several labels at once'


class TeacherEvaluation:
    """Runs all teachers on the batches of an evaluator, and logs their metrics at its end.

    It logs:

    * ``metrics/<evaluator>/teacher/<metric>``: the evaluator's own metrics, on the weighted mean of the teachers'
      logits;
    * ``metrics/<evaluator>/agreement/top1``: the fraction of valid positions at which student and teachers predict the
      same class (argmax of the logits);
    * ``metrics/<evaluator>/agreement/kl``: the mean of KL(teacher || student) over valid positions at temperature 1, in
      nats.

    Of models that answer with vectors (a true attribute ``embeds``) it logs :class:`.VectorAgreement` in the place of
    these: ``agreement/cosine`` and ``agreement/spearman``.

    Agreement is left out for models with one output, and for labels of several classes at once, where no class is the
    predicted one.
    What cannot be served is left alone, and said once for each evaluator: everything, where the student's outputs hold
    no logits (text that was generated) or the teachers cannot answer in their shape; a metric, if it cannot take logits
    in place of what the student returns.

    The attribute ``latest`` holds the last value logged under each name.

    Args:
        pool: The teachers; all of them run, whatever ``n_teachers_to_sample`` is.
        classes_dim: The dimension of the classes in the logits as a loss says it; -1 to find it.
        must_agree: Whether other shapes of the teachers' logits are an error, because training compares them too.
    """

    def __init__(self, pool: TeacherPool, classes_dim: int = -1, must_agree: bool = True) -> None:
        self.pool = pool
        self.classes_dim = classes_dim
        self.form = BatchFormat()
        self.latest: dict[str, float] = {}
        self._metrics: dict[str, Metric] | None = None
        self._agreement = {'top1': MeanMetric(), 'kl': MeanMetric(), _SEVERAL: MeanMetric()}
        self.of_vectors = False  # whether models answer with vectors
        self._vectors = VectorAgreement()
        self._comparable = False
        self._waiting: tuple[Tensor, Tensor, Any, int] | None = None
        self._must_agree = must_agree
        self._left_alone = False  # whether the evaluator that runs now is
        self._failed: set[str] = set()  # its metrics that cannot be computed from logits
        self._said: set[tuple[str, str]] = set()

    def expect(self, shape: torch.Size, teachers: Mapping[str, torch.Size]) -> None:
        """Says before the first step what no evaluation will be able to compare.

        Args:
            shape: The shape of the student's logits in training.
            teachers: The shapes of the teachers' logits for the same batch, as far as known, by the teacher's name.
        """
        for name, other in teachers.items():
            if other != shape and not self.of_vectors:
                self._say(
                    'all evaluators',
                    f'the teacher {name!r} answers in the shape {tuple(other)}, the student in {tuple(shape)}. '
                    'Evaluations beside the student will leave the teachers out: set run_teacher_on_eval=False.',
                )

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Handles one event of an evaluator.

        Args:
            event: The event.
            state: The state of the run.
            logger: Takes the metrics at the end of the evaluator.
        """
        if event is Event.EVAL_START:
            self._metrics = self._waiting = None
            self._left_alone = self._comparable = False
            self._failed = set()
            self._agreement = {name: state.device.module_to_device(metric) for name, metric in self._agreement.items()}
            for metric in self._agreement.values():
                metric.reset()
            self._vectors = state.device.module_to_device(self._vectors)
            self._vectors.reset()
        elif event is Event.EVAL_AFTER_FORWARD:
            if not self._left_alone:
                self._observe(state)
        elif event is Event.EVAL_END:
            self._log(state, logger)
        else:  # the next microbatch begins, or the batch ends
            self._update(state)

    def _observe(self, state: State) -> None:
        """Runs the teachers on a microbatch, and stores both logits until the student's metrics have been updated.

        Composer excludes samples that a distributed sampler repeats to give all ranks equally many. Whether it uses
        this microbatch shows only in the update counts of the student's metrics.
        """
        if self._metrics is None:
            # At EVAL_START the evaluator's metrics are not yet on the device.
            self._metrics = copy.deepcopy(dict(state.eval_metrics[state.dataloader_label]))
            for metric in self._metrics.values():
                metric.reset()
        try:
            student, teacher = self._answers(state)
        except Exception as error:
            if is_of_device(error):
                raise
            self._left_alone = True
            self._say(f'evaluator {state.dataloader_label!r}', f'the teachers are left out: {error}')
            return
        if self.of_vectors:
            self._waiting = student, teacher, state.batch, updates_of(state)
            return
        if teacher.shape != student.shape and teacher.shape != (*student.shape, 1):
            self._misfit(student, teacher, state.dataloader_label)
            return
        self._comparable = self._layout(state, student, state.batch)[0].classes > 1
        # A HuggingFaceModel with a single output drops its dimension in evaluation.
        self._waiting = student, teacher.reshape(student.shape), state.batch, updates_of(state)

    def _answers(self, state: State) -> tuple[Tensor, Tensor]:
        student = cut(logits_of(state.outputs, 'the student'), self.pool.vocabulary, 'the student')
        with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
            # Without the index, which counts samples of another data set than in training.
            teacher = self.pool(self.form.split(state.batch)[0])
        if not isinstance(teacher, Tensor):
            raise TeacherError('a stored teacher that kept a part of the classes says nothing of other samples')
        return student, teacher

    def _misfit(self, student: Tensor, teacher: Tensor, label: str) -> None:
        """Logits of two shapes: an error if they are compared in training, else there is nothing to evaluate."""
        text = (
            f'In evaluation the teachers {self.pool} answer in the shape {tuple(teacher.shape)}, the student in '
            f'{tuple(student.shape)}: they must agree.'
        )
        if self._must_agree:
            raise TeacherError(text)
        self._left_alone = True
        self._say(f'evaluator {label!r}', f'the teachers are left out: {text}')

    def _update(self, state: State) -> None:
        if self._waiting is None:
            return
        (student, teacher, batch, before), self._waiting = self._waiting, None
        if state.eval_metrics[state.dataloader_label] and updates_of(state) == before:
            return
        if self.of_vectors:
            self._vectors.update(student, teacher)
            return
        model = state.model.module if isinstance(state.model, DistributedDataParallel) else state.model
        with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
            for name, metric in (self._metrics or {}).items():
                if name not in self._failed:
                    self._update_metric(model, batch, teacher, name, metric, state.dataloader_label)
        if self._comparable:
            layout, mask, several = self._layout(state, student, batch)
            self._agreement[_SEVERAL].update(float(several))
            self._agree(layout.rows(student).flatten(0, -2), layout.rows(teacher).flatten(0, -2), mask)

    def _layout(self, state: State, student: Tensor, batch: Any) -> tuple[Layout, Tensor | None, bool]:
        """Where the classes are, which positions count, and whether there are several labels at once."""
        batch, form = _as_trained(self.form.split(batch)[0], state.model, self.form, student.device)
        valid = valid_of(batch, form)
        layout = layout_of(student, batch, form, self.classes_dim, valid)
        return layout, layout.mask(valid), several_labels(batch, student)

    def _update_metric(self, model: Any, batch: Any, teacher: Tensor, name: str, metric: Metric, label: str) -> None:
        """Updates a metric with the teachers' logits; it may be made for whole outputs of the student instead."""
        try:
            model.update_metric(batch, teacher, metric)
        except Exception as error:
            if is_of_device(error):
                raise
            self._failed.add(name)
            self._say(
                f'evaluator {label!r}',
                f'{name} of the teachers is left out: it cannot be computed from their logits '
                f'({type(error).__name__}: {error})',
            )

    def _say(self, where: str, text: str) -> None:
        if (where, text[:30]) not in self._said:
            self._said.add((where, text[:30]))
            warnings.warn(f'run_teacher_on_eval, {where}: {text}', stacklevel=2)

    def _settle(self) -> None:
        """Makes all ranks leave out what one of them does, because metrics are computed together."""
        if dist.get_world_size() > 1:
            every = dist.all_gather_object((self._left_alone, self._failed))
            self._left_alone = any(alone for alone, _ in every)
            self._failed = set().union(*(failed for _, failed in every))

    def _agree(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> None:
        same = (student.argmax(-1) == teacher.argmax(-1)).float()
        if mask is not None:
            same = same[mask]
        if same.numel():
            divergence = kl_divergence(student, teacher, 1.0, mask=mask)
            self._agreement['top1'].update(same.mean(), weight=same.numel())
            self._agreement['kl'].update(divergence, weight=same.numel())

    def _log(self, state: State, logger: Logger) -> None:
        self._settle()
        if self._metrics is None or self._left_alone:
            return
        label = state.dataloader_label
        served = {name: metric for name, metric in self._metrics.items() if name not in self._failed}
        found = {f'metrics/{label}/teacher/{name}': metric.compute() for name, metric in served.items()}
        if self.of_vectors:
            found = {f'metrics/{label}/agreement/{name}': value for name, value in self._vectors.compute().items()}
        if self._comparable:  # equal on all ranks, as compute() is a collective call
            agreement = {name: metric.compute() for name, metric in self._agreement.items()}
            if not agreement.pop(_SEVERAL) > 0:
                found.update({f'metrics/{label}/agreement/{name}': value for name, value in agreement.items()})
        logger.log_metrics(found)
        self.latest.update({name: float(v) for name, v in found.items() if isinstance(v, Tensor) and v.numel() == 1})


def updates_of(state: State) -> int:
    """The number of updates of the student's metrics in this evaluator."""
    return sum(metric.update_count for metric in state.eval_metrics[state.dataloader_label].values())


def _as_trained(batch: Any, model: Any, form: BatchFormat, device: torch.device) -> tuple[Any, BatchFormat]:
    """The batch with its labels: ``HuggingFaceModel`` may move them out of the batch; they are then shifted."""
    model = model.module if isinstance(model, DistributedDataParallel) else model
    labels = getattr(model, 'labels', None)
    if isinstance(batch, Mapping) and 'labels' not in batch and isinstance(labels, Tensor):
        return {**batch, 'labels': labels.to(device)}, dataclasses.replace(form, shift_labels=False)
    return batch, form
