"""The distillation loss of a run in which each sample has teachers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from composer.core import State
from torch import Tensor
from typing_extensions import override

from composer_kd.batches.format import BatchFormat
from composer_kd.batches.microbatch import Microbatch
from composer_kd.batches.parts import indivisible
from composer_kd.errors import ConfigError, TeacherError
from composer_kd.matches.criterion import Criterion, Precision
from composer_kd.matches.dry_run import first_samples
from composer_kd.matches.loss_signature import attribute_of
from composer_kd.matches.part import Part
from composer_kd.teachers import NotMeasured, TeacherPool, module_of
from composer_kd.teachers.placement import is_sharded
from composer_kd.teachers.routing import Group, Route, RouteBy, groups_of

__all__ = ['RoutedCriterion', 'RoutedDraw', 'make_criterion']


class RoutedDraw(tuple[int, ...]):
    """The numbers of the teachers that have samples in a microbatch.

    Attributes:
        groups: The samples with the same teachers, by these teachers.
        size: The number of samples in the microbatch.
    """

    groups: list[Group]
    size: int

    @classmethod
    def of(cls, taught: Tensor) -> RoutedDraw:
        """Those of booleans ``(B, teachers)``."""
        drawn = cls(taught.any(0).nonzero().squeeze(1).tolist())
        drawn.groups, drawn.size = groups_of(taught), taught.shape[0]
        return drawn


class RoutedCriterion(Criterion):
    r"""The distillation loss in which each sample is taught by its own teachers.

    With :math:`R_b` the teachers of sample :math:`b`, :math:`\ell` the loss at one valid position, and :math:`t_{R_b}`
    the weighted mean of the logits of these teachers, it is

    .. math:: L_{kd} = \frac{1}{\sum_{b: R_b \ne \emptyset} |p_b|}
              \sum_{b: R_b \ne \emptyset} \sum_{i \in p_b} \ell(s_{b,i}, t_{R_b,i})

    over all samples of the batch on all ranks, with :math:`p_b` the valid positions of a sample (one, for models with
    one prediction per sample). The samples with the same teachers are compared together: each is the microbatch of an
    ordinary :class:`.Criterion`, whose loss counts by its share of the positions that are taught. A match that names
    one teacher adds to the losses of that teacher's samples, and 0 to others.

    Args:
        kd_loss_fn: A loss, a :class:`.Match`, or a list of them; each a mean over samples or positions.
        pool: The teachers; all of them may run for a batch, each on its own samples.
        route: Says which teachers teach each sample.

    Raises:
        ConfigError: If teachers are drawn at random besides, or a loss compares samples with one another.

    Example:
        >>> pool = TeacherPool([torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)])
        >>> RoutedCriterion(torch.nn.MSELoss(), pool, 'teacher_id').route
        route='teacher_id'
    """

    def __init__(self, kd_loss_fn: Any, pool: TeacherPool, route: RouteBy) -> None:
        super().__init__(kd_loss_fn, pool)
        self.route: Route = Route(route, len(pool.teachers))
        for teacher in pool.teachers:
            if getattr(teacher, 'whole_batches', False):
                raise ConfigError(
                    f'The teacher {teacher.name!r} answers for whole microbatches, and {self.route!r} gives it its own '
                    'samples alone. Leave the route out, or the teacher'
                )
        if pool.n_to_sample < len(pool.teachers):
            raise ConfigError(
                f'{self.route!r} says which teachers teach each sample, and n_teachers_to_sample={pool.n_to_sample} '
                'would draw some of them at random: use one of the two'
            )
        for term in self.terms:
            if term.is_own:
                raise ConfigError(
                    f'Match {term.match.name!r} compares layers of the student, which no teacher teaches, and '
                    f'{self.route!r} leaves out samples without a teacher. Leave one of the two out, or let two '
                    'Distillation take turns (end_dur, start_dur), one of them with teachers=[]'
                )
            if attribute_of(term.adapter.loss, 'relates_samples', False):
                raise ConfigError(
                    f'Match {term.match.name!r} compares the samples of a batch with one another, and with '
                    f'{self.route!r} they have different teachers. Take a loss of each sample by itself, or leave the '
                    'route out'
                )

    @override
    def prepare(self, state: State) -> None:
        for teacher in self.pool.teachers:
            if is_sharded(module_of(teacher)):
                raise TeacherError(
                    f'The teacher {teacher.name!r} is sharded, so all processes must run it together, and with '
                    f'{self.route!r} each would run it for its own samples, or not at all. Give it whole, or stored: '
                    'CachedTeacher'
                )
        super().prepare(state)

    @override
    def build(self, state: State, form: BatchFormat) -> None:
        super().build(state, form)
        if state.train_dataloader is None:
            return
        try:
            first = state.device.batch_to_device(first_samples(state))
        except NotMeasured:
            return  # it is read at the first batch
        self._read(first, *form.split(first))

    @override
    def draw(self, state: State, micro: Microbatch) -> RoutedDraw:
        return RoutedDraw.of(self._read(state.batch, micro.batch, micro.index))

    def _read(self, whole: Any, batch: Any, index: Tensor | None) -> Tensor:
        taught = self.route(whole, batch, index)
        if self.route.gives_one and len(set(self.pool.weights)) > 1:
            raise ConfigError(
                f'teacher_weights weigh the logits of several teachers of a sample, and {self.route!r} gives each '
                f'sample one: they have no effect, got {self.pool.weights}. Leave them out'
            )
        entries = indivisible(batch, taught.shape[0])
        if entries:
            raise TeacherError(
                f'{self.route!r}: each teacher gets its own samples, and of the batch {", ".join(map(repr, entries))} '
                f'cannot be taken apart into {taught.shape[0]} samples, by the first dimension. Leave that out, or let '
                'the collate function make it of the samples'
            )
        return taught

    @override
    def __call__(
        self,
        state: State,
        micro: Microbatch,
        student: Tensor | None,
        drawn: Sequence[int],
        precision: Precision,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(drawn, RoutedDraw)
        features = self.student_features()
        outputs = {repr(path): feature for (path, _), feature in features.items()}
        if student is not None:
            outputs['logits'] = student
        for name, output in outputs.items():
            if not output.ndim or output.shape[0] != drawn.size:
                raise TeacherError(
                    f'{self.route!r}: the student gives {tuple(output.shape)} as {name} for {drawn.size} samples: '
                    'they must be the first dimension'
                )
        # Sums over nothing keep the graph of the student where no sample has a teacher.
        total = torch.stack([output[:0].sum().float() for output in outputs.values()]).sum()
        # The same names on every rank, because Composer sums what is logged over all of them.
        values = {match.name: torch.zeros_like(total, requires_grad=False) for match in self.matches}
        for teachers, rows in drawn.groups:
            part = Part(micro, student, features, teachers)
            if len(rows) < drawn.size:
                ours = None if student is None else _at(student, rows)
                seen = {key: _at(feature, rows) for key, feature in features.items()}
                part = Part(micro.part(rows, drawn.size), ours, seen, teachers)
            kd, found = self.of_part(state, part, precision)
            share = self._share(micro, len(rows) / drawn.size)
            total = total + kd * share
            values.update({name: values[name] + value * share for name, value in found.items()})
        return total, values

    def _share(self, micro: Microbatch, fraction: float) -> Tensor | float:
        """The share of a group in the mean over all samples that are taught, times what Composer weighs it by."""
        taught = None if micro.count is None else micro.count.taught
        return fraction if taught is None else fraction / taught


def _at(output: Tensor, rows: Tensor) -> Tensor:
    return output[rows.to(output.device)]


def make_criterion(kd_loss_fn: Any, pool: TeacherPool, route: RouteBy | None, in_evaluation: bool) -> Criterion:
    """Makes the distillation loss of a run.

    Args:
        kd_loss_fn: A loss, a :class:`.Match`, or a list of them.
        pool: The teachers.
        route: Which teachers teach each sample; ``None`` for all.
        in_evaluation: Whether the teachers run in evaluation too.

    Raises:
        ConfigError: If they shall run in evaluation, with a route; and as for :class:`RoutedCriterion`.
    """
    if route is None:
        return Criterion(kd_loss_fn, pool)
    criterion = RoutedCriterion(kd_loss_fn, pool, route)
    if in_evaluation:
        raise ConfigError(
            f'{criterion.route!r} and run_teacher_on_eval=True: an evaluation is beside the mean of all teachers, and '
            'here no sample is taught by all. Leave one of the two out; composer-kd evaluate measures teachers alone'
        )
    return criterion
