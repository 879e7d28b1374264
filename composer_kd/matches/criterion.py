"""The distillation loss of a run: its loss terms, the hooks on student and teachers, and the auxiliary modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from composer.core import State
from torch import Tensor, nn

from composer_kd.batches.format import BatchFormat
from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import ConfigError
from composer_kd.features.hooks import FeatureHooks, LayerNotRun
from composer_kd.losses.linear_logits import AnyLogits
from composer_kd.matches.auxiliary import AuxiliaryModules
from composer_kd.matches.binding import bind, check_own_tokens, check_targets, layers_of, refuse_shared_modules
from composer_kd.matches.dry_run import dry_run, measure, runs_anywhere
from composer_kd.matches.match import Match, as_matches
from composer_kd.matches.part import Part
from composer_kd.matches.softmax import ignores_level
from composer_kd.matches.student_features import StudentFeatures
from composer_kd.matches.term import Key, LossTerm
from composer_kd.schedules import value_at
from composer_kd.spans import TEACHER_FORWARD, labelled
from composer_kd.teachers import (
    NotMeasured,
    TeacherPool,
    check_classes,
    check_trained,
    cut,
    cut_shape,
    shared_vocabulary,
)
from composer_kd.teachers.routing import Route

__all__ = ['Criterion', 'OfLogits', 'Precision', 'weighted_mean']

Precision: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes the precision context in which teachers run."""

OfLogits: TypeAlias = Callable[[LossTerm, AnyLogits, Sequence[int]], Any]
"""Compares the student with the logits of some teachers, which are given by their numbers."""


class Criterion:
    """The distillation loss of a run: the weighted sum of all matches, each bound to its teachers as loss terms.

    Args:
        kd_loss_fn: A loss, a :class:`.Match`, or a list of them.
        pool: The teachers.

    Raises:
        ConfigError: If a match names an unknown teacher, or has none; or if two share a module that learns.

    Example:
        >>> Criterion(nn.MSELoss(), TeacherPool(nn.Linear(2, 3))).name
        'MSELoss'
    """

    route: Route | None = None  # which teachers teach each sample; None: those that are drawn for the batch
    defers_logits = False  # whether logits are compared where they are never whole: none are made before training
    vocabulary: int | None = None  # the number of classes that are compared, as the user said it; None to find it

    def __init__(self, kd_loss_fn: Any, pool: TeacherPool) -> None:
        self.matches, self.named = as_matches(kd_loss_fn)
        self.pool = pool
        names = [teacher.name for teacher in pool.teachers]
        self.terms = [term for match in self.matches for term in bind(match, names)]
        refuse_shared_modules(self.terms)
        self.name = ', '.join(match.name for match in self.matches)
        self.on_mean = [term for term in self.terms if term.teacher is None and not term.is_own]
        self.on_student = [term for term in self.terms if term.is_own]
        self.on_teacher = {
            index: [term for term in self.terms if term.teacher == index] for index in range(len(pool.teachers))
        }
        self.needs_logits = any(match.on_logits for match in self.matches)
        self.needs_features = not all(match.on_logits for match in self.matches)
        # The fast path for the usual case: one loss on the mean logits, with the weight 1.
        self._only = (
            self.on_mean[0] if len(self.terms) == len(self.on_mean) == 1 and self.matches[0].weight == 1.0 else None
        )
        self._apart = False  # whether each teacher's logits are compared apart, because they have no mean
        self.hooks: FeatureHooks | None = None  # the student's
        self._teacher_hooks: dict[int, FeatureHooks] = {}
        self._features = StudentFeatures({text for term in self.terms for text, _ in term.student_keys})
        self.auxiliary = AuxiliaryModules()
        self._scheduled_weights: dict[str, float] = {}  # what the schedules gave in this batch, by match

    @property
    def classes_dim(self) -> int:
        """The dimension of the classes in the logits."""
        return next((term.adapter.classes_dim for term in self.terms if term.match.on_logits), -1)

    @property
    def learning(self) -> list[str]:
        """The names of the matches that have parameters to train."""
        return list(dict.fromkeys(term.match.name for term in self.terms if term.waits or term.learned()))

    @property
    def indexed(self) -> list[str]:
        """The names of the matches whose loss needs the samples' numbers."""
        return list(dict.fromkeys(term.match.name for term in self.terms if term.adapter.needs_index))

    @property
    def of_labels(self) -> list[str]:
        """The names of the matches whose loss takes the labels."""
        return list(dict.fromkeys(term.match.name for term in self.terms if term.adapter.needs_labels))

    @property
    def routed(self) -> list[str]:
        """The names of the matches in which samples have teachers of their own."""
        return [] if self.route is None else [match.name for match in self.matches]

    @property
    def student_layers(self) -> dict[str, str]:
        """The layers of the student that are compared: the full name of the module, by the path as written."""
        return {} if self.hooks is None else self.hooks.module_names()

    @property
    def teacher_layers(self) -> dict[int, dict[str, str]]:
        """The layers of each teacher that are compared, likewise, by its number."""
        return {number: hooks.module_names() for number, hooks in self._teacher_hooks.items()}

    @property
    def same_logits(self) -> set[int]:
        """The numbers of the teachers whose logits must have the student's shape."""
        strict = [term.teacher for term in self.terms if term.match.on_logits and not term.adapter.any_classes]
        everyone = range(len(self.pool.teachers)) if None in strict else ()
        return {*everyone, *(index for index in strict if index is not None)}

    def _needs_logits_of(self, index: int) -> bool:
        return bool(self.on_mean) or any(term.match.on_logits for term in self.on_teacher[index])

    # Before training --------------------------------------------------------------------------------------------------

    def prepare(self, state: State) -> None:
        """At ``INIT``: reserves parameter groups, and removes what an earlier run left in the student.

        Raises:
            ConfigError: If the setting ``lr`` or the sizes of a loss on logits are wrong, or if this object was used in
                an earlier run.
        """
        self.detach()
        self._features.clear()
        if self.auxiliary.taken:
            raise ConfigError(
                'This Distillation holds what it learned in an earlier run; make a new one for a new run, with losses '
                'and projectors of its own'
            )
        for term in self.terms:
            if term.match.on_logits and term.waits:
                raise ConfigError(f'Match {term.match.name!r}: give the loss its sizes; only features are measured')
            if isinstance(term.adapter.loss, nn.Module):
                state.device.module_to_device(term.adapter.loss)
        for number in self.same_logits:
            check_classes(state.model, self.pool.teachers[number])
            check_trained(self.pool.teachers[number])
        self._apart = any(getattr(teacher, 'sparse', False) for teacher in self.pool.teachers)
        self.pool.vocabulary = self.shared_classes(state)
        check_own_tokens(self.terms, self.pool)
        check_targets(self.terms, self.pool)
        self._find_layers(state)
        self.auxiliary.drop_leftovers(state)
        for match in self.matches:
            self._reserve(state, match)

    def shared_classes(self, state: State) -> int | None:
        """The number of classes that are compared, the first of the logits; ``None`` for all.

        Raises:
            ConfigError: If that which the user gave does not fit the models.
        """
        strict = [self.pool.teachers[number] for number in sorted(self.same_logits)]
        if self.vocabulary is not None and self.classes_dim != -1:
            raise ConfigError(
                f'vocabulary={self.vocabulary} cuts classes that come last, and a loss has '
                f'softmax_dim={self.classes_dim}'
            )
        return shared_vocabulary(state.model, strict, self.vocabulary)

    def _find_layers(self, state: State) -> None:
        keys = [key for term in self.terms for key in term.read_keys]
        self.hooks = FeatureHooks(state.model, keys, 'the student') if keys else None
        for index, terms in self.on_teacher.items():
            teacher, keys = self.pool.teachers[index], [key for term in terms for key in term.teacher_keys]
            if keys:
                if hasattr(teacher, 'check_layers'):
                    teacher.check_layers(keys)
                self._teacher_hooks[index] = FeatureHooks(layers_of(teacher), keys, f'the teacher {teacher.name!r}')

    def _reserve(self, state: State, match: Match) -> None:
        terms = [term for term in self.terms if term.match is match]
        if any(term.waits or term.learned() for term in terms):
            self.auxiliary.reserve(state, match)
        elif match.lr is not None:
            raise ConfigError(f'Match {match.name!r} learns nothing: its lr has no effect, leave it out')

    def build(self, state: State, form: BatchFormat) -> None:
        """At ``BEFORE_LOAD``: finds the layers, builds and registers all modules, and makes a dry run of every match.

        By now every algorithm of the run has made its changes to the student, whatever their order in the list; none
        makes them in a projector.

        Args:
            state: The state of the run.
            form: The format of its batches.

        Raises:
            ConfigError: If a layer does not exist (the message lists the nearest names), shapes cannot be measured, or
                no projector fits them.
            TeacherError: If the logits of a teacher and the student differ in shape.
            LossError: If a loss cannot compare features or logits of these shapes.
        """
        self._find_layers(state)
        try:
            self._build(state, form)
        except Exception:  # a run that is refused leaves the student as it was
            self.auxiliary.release(state.model)
            raise

    def _build(self, state: State, form: BatchFormat) -> None:
        waiting = [(number, term) for number, term in enumerate(self.terms) if term.waits]
        for term in self.terms:
            if not term.waits:
                self.auxiliary.take_in(state, term)
        if state.train_dataloader is None:
            return  # an evaluation needs no modules; `attach` checks again at FIT_START
        if not self.needs_features and (self.defers_logits or not runs_anywhere(state)):
            return  # logits are compared at the first batch
        try:
            samples = measure(state, self.pool, self.terms, form)
        except (NotMeasured, LayerNotRun):
            if waiting:
                raise
            return  # what cannot be measured now is checked at the first batch
        for number, term in waiting:
            # Equal initial weights on every rank and in every run with this seed.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(state.rank_zero_seed + number)
                term.build(samples.shapes[None], samples.shapes[term.teacher])
            self.auxiliary.take_in(state, term)
        measured = {} if self.defers_logits else samples.logits
        logits = {who: cut_shape(shape, self.pool.vocabulary, self._called(who)) for who, shape in measured.items()}
        dry_run(state, self.terms, replace(samples, logits=logits), form)

    def _called(self, who: int | None) -> str:
        return 'the student' if who is None else f'the teacher {self.pool.teachers[who].name!r}'

    def attach(self, state: State) -> None:
        """At ``FIT_START``: attaches the hooks of compiled models; other models have theirs while they run.

        Raises:
            ConfigError: If a module still needs shapes, or a layer no longer exists.
        """
        waiting = [term.match.name for term in self.terms if term.waits]
        if waiting:
            raise ConfigError(
                f'Match {waiting[0]!r}: shapes are measured on the first samples of the train_dataloader given to the '
                'Trainer, and none was. Give it there, or give modules, and losses their sizes.'
            )
        self.auxiliary.follow_replacements()
        self.auxiliary.follow_schedulers(state)
        for hooks in self._all_hooks():
            hooks.attach_if_compiled()

    def detach(self) -> None:
        """At ``FIT_END``: removes the hooks."""
        for hooks in self._all_hooks():
            hooks.remove()

    def _all_hooks(self) -> Iterable[FeatureHooks]:
        return (*((self.hooks,) if self.hooks is not None else ()), *self._teacher_hooks.values())

    # One microbatch ---------------------------------------------------------------------------------------------------

    def draw(self, state: State, micro: Microbatch) -> Sequence[int]:
        """The numbers of the teachers that run for a microbatch."""
        return self.pool.draw(state.rank_zero_seed, micro.number)

    def student_features(self) -> dict[Key, Tensor]:
        """The student's features of the last forward pass by layer."""
        return self._features.take(self.hooks)

    def __call__(
        self,
        state: State,
        micro: Microbatch,
        student: Tensor | None,
        drawn: Sequence[int],
        precision: Precision,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the teachers and computes the distillation loss of one microbatch.

        Args:
            state: The state of the run; schedules read its timestamp.
            micro: The microbatch.
            student: The student's logits; ``None`` if no match is on logits.
            drawn: The numbers of the teachers that run for it, from :meth:`draw`.
            precision: Makes the precision context in which the teachers run.

        Returns:
            The weighted sum of all matches, and the unweighted loss of each match by its name; all scalars.
        """
        return self.of_part(state, Part(micro, student, self.student_features(), drawn), precision)

    def of_part(self, state: State, part: Part, precision: Precision) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of samples that have the same teachers; the result is that of a call."""
        if part.logits is not None and self.pool.vocabulary is not None:
            part = replace(part, logits=cut(part.logits, self.pool.vocabulary, 'the student'))
        micro, drawn = part.micro, part.teachers
        if self._only is not None and part.logits is not None and not (self._apart and len(drawn) > 1):
            with torch.no_grad(), precision():
                teacher: Any = labelled(TEACHER_FORWARD, self.pool)(micro.batch, drawn, micro.index)
            value = self._only.of_logits(state, part.logits, teacher, micro, drawn)
            return value, {self.matches[0].name: value}

        def compare(term: LossTerm, teacher: Any, whose: Sequence[int]) -> Tensor:
            return term.of_logits(state, part.logits, teacher, micro, whose)

        found = self.compared(state, part, precision, compare)
        total: Tensor | None = None
        values = {}
        for match in self.matches:
            if match.name in found:  # missing if the match's teacher was not drawn
                values[match.name] = value = weighted_mean(found[match.name])
                weight = self.weight_of(match, state)
                weighted = value if weight == 1.0 else value * weight
                total = weighted if total is None else total + weighted
        if total is None:
            total = torch.zeros((), device=micro.share.device if micro.share is not None else None)
        return total, values

    def compared(
        self, state: State, part: Part, precision: Precision, of_logits: OfLogits
    ) -> dict[str, list[tuple[float, Any]]]:
        """Runs the teachers, and compares the student with them.

        Args:
            state: The state of the run.
            part: The samples.
            precision: Makes the precision context in which the teachers run.
            of_logits: Compares logits; what it returns is given in the place of the loss.

        Returns:
            By the name of each match whose teachers ran, the losses of its terms, each with its weight among them.
        """
        found: dict[str, list[tuple[float, Any]]] = {}
        for term, weight, value in self._values(state, part, precision, of_logits):
            found.setdefault(term.match.name, []).append((weight, value))
        return found

    def _values(
        self, state: State, part: Part, precision: Precision, of_logits: OfLogits
    ) -> Iterator[tuple[LossTerm, float, Any]]:
        """The loss of each term with its weight among the match's terms.

        It goes teacher by teacher, so that only one teacher's features are in memory at a time. Teachers of which one
        is stored as a part of the classes have no mean logits: a match on their mean is then the mean of the losses.
        """
        micro, ours = part.micro, part.features
        mean = self.pool.mean(part.teachers)
        for index in part.teachers:
            with torch.no_grad(), precision():
                shown, logits = labelled(TEACHER_FORWARD, self._ask)(index, micro)
            weight = self.pool.weights[index]
            for term in (*self.on_teacher[index], *(self.on_mean if self._apart else ())):
                if term.match.on_logits:
                    yield term, weight, of_logits(term, logits, [index])
                else:
                    yield term, weight, term.of_features(state, ours, shown, micro)
            if self.on_mean and logits is not None and not self._apart:
                mean.add(index, logits)
            del shown, logits
        for term in self.on_mean if not self._apart else ():
            yield term, 1.0, of_logits(term, mean.value, part.teachers)
        for term in self.on_student:
            yield term, 1.0, term.of_features(state, ours, term.own_targets(ours, micro), micro)

    def _ask(self, index: int, micro: Microbatch) -> tuple[dict[Key, Tensor], Any]:
        """Runs one teacher, and returns the features and logits that the loss terms need."""
        hooks = self._teacher_hooks.get(index)
        answers = self._needs_logits_of(index)
        if hooks is None:
            return {}, self.pool.logits(index, micro.batch, micro.index) if answers else None
        with hooks.recording(micro.tokens_at):
            outputs = self.pool.outputs(index, micro.batch, micro.index)
            return hooks.take(), self.pool.answered(index, outputs) if answers else None

    def weight_of(self, match: Match, state: State) -> float:
        """The weight of a match in the batch of ``state``."""
        value = value_at(match.weight, state, f'The weight of {match.name!r}')
        if callable(match.weight):
            self._scheduled_weights[match.name] = value
        return value

    @property
    def is_scheduled(self) -> bool:
        """Whether a weight or temperature is a schedule."""
        return any(callable(match.weight) or callable(match.temperature) for match in self.matches)

    def scheduled(self) -> dict[str, float]:
        """At ``AFTER_TRAIN_BATCH``: what the schedules gave in this batch, under the names for the log.

        Returns:
            The weights and temperatures that were used; none of a match whose teacher was not drawn, or outside the
            window.
        """
        found = {f'schedules/{name}/weight': value for name, value in self._scheduled_weights.items()}
        self._scheduled_weights = {}
        for term in self.terms:
            if term.scheduled_temperature is not None:
                found[f'schedules/{term.match.name}/temperature'] = term.scheduled_temperature
                term.scheduled_temperature = None
        return found

    def of_softmax(self, logits: Tensor) -> list[str]:
        """The names of the matches whose loss compares a softmax of logits ``(B, C)``."""
        found = [one.match.name for one in self.terms if one.match.on_logits and ignores_level(one.adapter, logits)]
        return list(dict.fromkeys(found))

    def end_batch(self) -> None:
        """At ``BATCH_END``: updates the losses that keep a memory."""
        for term in self.terms:
            if term.remembers:
                term.adapter.loss.update()  # type: ignore[attr-defined]

    def poll(self) -> None:
        """Waits for all pending checks that losses are finite.

        Raises:
            LossError: If a loss was not finite.
        """
        for term in self.terms:
            term.adapter.finite_check.poll(wait=True)


def weighted_mean(values: Sequence[tuple[float, Tensor]]) -> Tensor:
    """The mean of the losses of a match's terms, from :meth:`Criterion.compared`."""
    if len(values) == 1:
        return values[0][1]
    total = sum(weight for weight, _ in values)
    return torch.stack([value * (weight / total) for weight, value in values]).sum()
