"""All comparisons of a run, bound to its student and teachers, and what they learn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from composer.core import State
from torch import Tensor, nn

from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import ConfigError, nearest
from composer_kd.features.hooks import Taps
from composer_kd.features.outputs import logits_of
from composer_kd.matches.auxiliary import Extras
from composer_kd.matches.dry_run import measure, rehearse
from composer_kd.matches.match import Match, as_matches
from composer_kd.matches.term import Key, Link
from composer_kd.schedules import value_at
from composer_kd.spans import TEACHER_FORWARD, labelled
from composer_kd.teachers import TeacherPool

__all__ = ['Criterion']


class Criterion:
    """The distillation loss of a run: every match, for every teacher that it is bound to.

    Args:
        kd_loss_fn: A loss, a :class:`.Match`, or a list of them.
        pool: The teachers.

    Raises:
        ConfigError: If a match names a teacher that is not there, or two share what they learn.

    Example:
        >>> Criterion(nn.MSELoss(), TeacherPool(nn.Linear(2, 3))).name
        'MSELoss'
    """

    def __init__(self, kd_loss_fn: Any, pool: TeacherPool) -> None:
        self.matches, self.named = as_matches(kd_loss_fn)
        self.pool = pool
        self.links = [link for match in self.matches for link in self._bind(match)]
        self.name = ', '.join(match.name for match in self.matches)
        self.on_mean = [link for link in self.links if link.teacher is None]
        self.on_teacher = {
            index: [link for link in self.links if link.teacher == index] for index in range(len(pool.teachers))
        }
        self.needs_logits = any(match.on_logits for match in self.matches)
        self.needs_features = not all(match.on_logits for match in self.matches)
        # The usual case, for which no more need be done than to compare: one loss of the mean logits.
        self._only = (
            self.on_mean[0] if len(self.links) == len(self.on_mean) == 1 and self.matches[0].weight == 1.0 else None
        )
        self.taps: Taps | None = None  # the student's
        self._teacher_taps: dict[int, Taps] = {}
        self.extras = Extras()
        self._check_not_shared()

    def _bind(self, match: Match) -> list[Link]:
        names = [teacher.name for teacher in self.pool.teachers]
        if match.teacher is None:
            numbers: Sequence[int | None] = [None] if match.on_logits else range(len(names))
        else:
            numbers = [index for index, name in enumerate(names) if name == match.teacher]
            if len(numbers) != 1:
                found = 'no teacher' if not numbers else f'{len(numbers)} teachers'
                raise ConfigError(
                    f'Match {match.name!r}: {found} of that name, {match.teacher!r}'
                    f'{nearest(match.teacher, set(names))}. FrozenTeacher(model, name=...) names one.'
                )
        return [Link(match, number, position == 0, names) for position, number in enumerate(numbers)]

    def _check_not_shared(self) -> None:
        owner: dict[int, str] = {}
        for link in self.links:
            loss = link.comparison.loss
            unbuilt = [loss] if link.waits and hasattr(loss, 'build') else []
            for thing in (*unbuilt, *(p for part in link.learned().values() for p in part.parameters())):
                if owner.setdefault(id(thing), link.match.name) != link.match.name:
                    raise ConfigError(
                        f'The matches {owner[id(thing)]!r} and {link.match.name!r} share a module that learns. '
                        'Give each its own (copy.deepcopy).'
                    )

    @property
    def classes_dim(self) -> int:
        """The dimension of the classes in logits."""
        return next((link.comparison.classes_dim for link in self.links if link.match.on_logits), -1)

    @property
    def same_logits(self) -> set[int]:
        """The teachers that must answer in the student's very shape."""
        strict = [link.teacher for link in self.links if link.match.on_logits and not link.comparison.any_classes]
        everyone = range(len(self.pool.teachers)) if None in strict else ()
        return {*everyone, *(index for index in strict if index is not None)}

    def _needs_logits_of(self, index: int) -> bool:
        return bool(self.on_mean) or any(link.match.on_logits for link in self.on_teacher[index])

    # Before training --------------------------------------------------------------------------------------------------

    def prepare(self, state: State, shift: bool) -> None:
        """At INIT: finds the layers, makes room in the optimizer, and takes in what is ready.

        Raises:
            ConfigError: If a layer is not there; names the nearest ones.
        """
        self.detach()
        if self.extras.taken:
            raise ConfigError(
                'This Distillation holds what it learned in an earlier run; make a new one for a new run, with losses '
                'and projectors of its own'
            )
        for link in self.links:
            link.comparison.shift = shift
            if link.match.on_logits and link.waits:
                raise ConfigError(f'Match {link.match.name!r}: give the loss its sizes; only features are measured')
            if isinstance(link.comparison.loss, nn.Module):
                state.device.module_to_device(link.comparison.loss)
        keys = [key for link in self.links for key in link.student_keys]
        self.taps = Taps(state.model, keys, 'the student') if keys else None
        for index, links in self.on_teacher.items():
            teacher, keys = self.pool.teachers[index], [key for link in links for key in link.teacher_keys]
            if keys:
                self._teacher_taps[index] = Taps(teacher.model, keys, f'the teacher {teacher.name!r}')
        for match in self.matches:
            links = [link for link in self.links if link.match is match]
            if any(link.waits or link.learned() for link in links):
                self.extras.reserve(state, match)
            elif match.lr is not None:
                raise ConfigError(f'Match {match.name!r} learns nothing: its lr has no effect, leave it out')
        for link in self.links:
            if not link.waits:
                self.extras.take_in(state, link)

    def build(self, state: State) -> None:
        """Before weights are loaded: measures shapes, makes what waits for them, and tries every match on them.

        Raises:
            ConfigError: If shapes cannot be measured or joined.
            LossError: If a loss cannot compare what it is given.
        """
        waiting = [(number, link) for number, link in enumerate(self.links) if link.waits]
        if not self.needs_features or state.train_dataloader is None:
            return  # to evaluate, nothing need be built; FIT_START asks again
        try:
            samples = measure(state, self.pool, self.links)
        except ConfigError:
            if waiting:
                raise
            return  # what cannot be looked at beforehand is found out at the first batch
        for number, link in waiting:
            # The same on every rank and in every run of this seed, whatever was drawn before.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(state.rank_zero_seed + number)
                link.build(samples.shapes[None], samples.shapes[link.teacher])
            self.extras.take_in(state, link)
        rehearse(state, self.links, samples)

    def attach(self, state: State) -> None:
        """When training starts: hooks go on.

        Raises:
            ConfigError: If something still waits for shapes, or a layer is gone.
        """
        waiting = [link.match.name for link in self.links if link.waits]
        if waiting:
            raise ConfigError(
                f'Match {waiting[0]!r}: shapes are measured on the first samples of the train_dataloader given to the '
                'Trainer, and none was. Give it there, or give modules, and losses their sizes.'
            )
        self.extras.follow_schedulers(state)
        for taps in self._all_taps():
            taps.attach()

    def detach(self) -> None:
        """When it ends: they come off."""
        for taps in self._all_taps():
            taps.remove()

    def _all_taps(self) -> Iterable[Taps]:
        return (*((self.taps,) if self.taps is not None else ()), *self._teacher_taps.values())

    # One microbatch ---------------------------------------------------------------------------------------------------

    def __call__(
        self,
        state: State,
        micro: Microbatch,
        student: Tensor | None,
        drawn: Sequence[int],
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Lets the teachers answer, and compares.

        Args:
            state: The run, whose time the schedules follow.
            micro: The microbatch.
            student: The student's logits, where they are needed.
            drawn: The teachers that answer.
            precision: Makes the context in which they run.

        Returns:
            The weighted sum of all matches, and the unweighted value of each, by name.
        """
        if self._only is not None and student is not None:
            with torch.no_grad(), precision():
                teacher = labelled(TEACHER_FORWARD, self.pool)(micro.batch, drawn)
            value = self._only.of_logits(state, student, teacher, micro, drawn)
            return value, {self.matches[0].name: value}
        features = self._student_features()
        found: dict[str, list[tuple[float, Tensor]]] = {}
        for link, value in self._values(state, micro, student, features, drawn, precision):
            weight = 1.0 if link.teacher is None else self.pool.weights[link.teacher]
            found.setdefault(link.match.name, []).append((weight, value))
        total: Tensor | None = None
        values = {}
        for match in self.matches:
            if match.name in found:  # a teacher that a match is bound to may not have been drawn
                values[match.name] = value = _weighted_mean(found[match.name])
                weight = value_at(match.weight, state, f'The weight of {match.name!r}')
                term = value if weight == 1.0 else value * weight
                total = term if total is None else total + term
        if total is None:
            total = torch.zeros((), device=micro.share.device if micro.share is not None else None)
        return total, values

    def _student_features(self) -> dict[Key, Tensor]:
        features = self.taps.take() if self.taps is not None else {}
        for (text, _), feature in features.items():
            if not feature.requires_grad:
                raise ConfigError(
                    f'The layer {text!r} of the student has no gradient, so nothing could be learned there: it is '
                    'frozen, or inside an activation checkpoint, which must then be one with use_reentrant=False'
                )
        return features

    def _values(
        self,
        state: State,
        micro: Microbatch,
        student: Tensor | None,
        features: Mapping[Key, Tensor],
        drawn: Sequence[int],
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> Iterator[tuple[Link, Tensor]]:
        """The value of each link, teacher by teacher, so that no two teachers' features are held at once."""
        mean = self.pool.mean(drawn)
        for index in drawn:
            with torch.no_grad(), precision():
                shown, logits = labelled(TEACHER_FORWARD, self._ask)(index, micro)
            for link in self.on_teacher[index]:
                if link.match.on_logits:
                    yield link, link.of_logits(state, student, logits, micro, [index])
                else:
                    yield link, link.of_features(state, features, shown, micro)
            if self.on_mean and logits is not None:
                mean.add(index, logits)
            del shown, logits
        for link in self.on_mean:
            yield link, link.of_logits(state, student, mean.value, micro, drawn)

    def _ask(self, index: int, micro: Microbatch) -> tuple[dict[Key, Tensor], Tensor | None]:
        """One teacher's features and logits, as far as they are needed."""
        teacher, taps = self.pool.teachers[index], self._teacher_taps.get(index)
        answers = self._needs_logits_of(index)
        if taps is None:
            return {}, teacher(micro.batch) if answers else None
        taps.open(None if micro.tokens is None else micro.tokens.mask)
        try:
            outputs = teacher.outputs(micro.batch)
            return taps.take(), logits_of(outputs, f'the teacher {teacher.name!r}') if answers else None
        finally:
            taps.close()

    def end_batch(self) -> None:
        """Lets losses with a memory write it."""
        for link in self.links:
            if link.remembers:
                link.comparison.loss.update()  # type: ignore[attr-defined]

    def poll(self) -> None:
        """Waits for the last answers of all watches for losses that are no number."""
        for link in self.links:
            link.comparison.watch.poll(wait=True)


def _weighted_mean(values: Sequence[tuple[float, Tensor]]) -> Tensor:
    if len(values) == 1:
        return values[0][1]
    total = sum(weight for weight, _ in values)
    return torch.stack([value * (weight / total) for weight, value in values]).sum()
