"""A loss term: a match bound to one teacher, or to the student itself, with its auxiliary modules."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from composer.core import State
from torch import Tensor, nn

from composer_kd.batches.masks import Valid, token_mask
from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import ConfigError, TeacherError, is_of_device
from composer_kd.features.hooks import Summary
from composer_kd.losses._common import at_least_float32
from composer_kd.losses.sparse import TeacherLogits
from composer_kd.matches.loss_adapter import Feature, LossAdapter
from composer_kd.matches.match import Match
from composer_kd.matches.projector import PROJECTORS, AutoProjector

__all__ = ['Key', 'LossTerm', 'misfit']

Key = tuple[str, Summary | None]


class LossTerm:
    """One match bound to one teacher, to the mean of all teachers' logits, or to other layers of the student.

    Args:
        match: The match.
        teacher: The teacher's number in the pool; ``None`` for the mean of the teachers' logits and, of a match of
            features, for the student's own.
        is_first: Whether this is the match's first term, which uses the user's own modules; the others use copies.
        names: The names of all teachers, for messages.
    """

    def __init__(self, match: Match, teacher: int | None, is_first: bool, names: Sequence[str]) -> None:
        loss = match.loss
        if isinstance(loss, nn.Module) and not is_first:
            loss = copy.deepcopy(loss)
        self.match, self.teacher, self._names = match, teacher, names
        self._temperature = match.temperature
        self.scheduled_temperature: float | None = None  # what the schedule gave in this batch
        self.adapter = LossAdapter(loss, match.name)
        self.projector: nn.Module | None = None
        if isinstance(match.project, nn.Module):
            self.projector = match.project if is_first else copy.deepcopy(match.project)
        on_layers = not match.on_logits
        self.student_keys: list[Key] = [(text, None) for text in match.student_layers] if on_layers else []
        # The student's features stay in its graph anyway; a teacher's are reduced to the summary that the loss needs.
        self.teacher_keys: list[Key] = [(text, self.adapter.summary) for text in match.teacher_layers if on_layers]

    @property
    def owner(self) -> Match:
        """The match."""
        return self.match

    @property
    def number(self) -> int | None:
        """The number of its teacher; ``None`` for what is there in every batch: some of all teachers, the student."""
        return self.teacher

    @property
    def slot(self) -> str:
        """Its key among the auxiliary modules."""
        if self.teacher is None:
            return self.match.key + ('_student' if self.is_own else '_mean')
        return f'{self.match.key}_{self.teacher}'

    @property
    def is_own(self) -> bool:
        """Whether the student's own layers are its teacher."""
        return self.teacher is None and not self.match.on_logits

    @property
    def read_keys(self) -> list[Key]:
        """The layers of the student that it reads, those that teach among them."""
        own = [(text, None) for text, _ in self.teacher_keys] if self.is_own else []
        return [*self.student_keys, *own]

    @property
    def waits(self) -> bool:
        """Whether the shapes of features must be measured before its modules can be built."""
        loss = self.adapter.loss
        unbuilt = isinstance(loss, nn.Module) and hasattr(loss, 'build') and not any(True for _ in loss.parameters())
        return unbuilt or (isinstance(self.match.project, str) and self.projector is None)

    def build(self, student: Mapping[Key, torch.Size], teacher: Mapping[Key, torch.Size]) -> None:
        """Builds the projector and the loss from the shapes of features.

        Args:
            student: The shapes of the student's features, the batch first.
            teacher: The shapes of the teacher's features, likewise.

        Raises:
            ConfigError: If no projector fits the shapes, or the loss rejects them.
        """
        shapes = [student[key] for key in self.student_keys], [teacher[key] for key in self.teacher_keys]
        if isinstance(self.match.project, str):
            if self.adapter.summary is not None:
                shapes[0][0] = self._summarised(shapes[0][0])
            kind = PROJECTORS[self.match.project]
            self.projector = kind(shapes[0][0], shapes[1][0], f'Match {self.match.name!r}')
        loss = self.adapter.loss
        if not hasattr(loss, 'build'):
            return
        if self.projector is not None:
            shapes = self._projected(shapes[0][0], shapes[1][0])
        sides: list[Any] = [side if self.match.several else side[0] for side in shapes]
        try:
            loss.build(*sides)
        except (ValueError, TypeError) as error:
            raise ConfigError(f'Match {self.match.name!r}, of the shapes {sides[0]} and {sides[1]}: {error}') from error

    def learned(self) -> dict[str, nn.Module]:
        """The auxiliary modules: those with parameters or buffers, under ``'projector'`` and ``'loss'``."""
        loss = self.adapter.loss
        parts = {'projector': self.projector, 'loss': loss if isinstance(loss, nn.Module) else None}
        return {
            name: part
            for name, part in parts.items()
            if part is not None and (any(True for _ in part.parameters()) or any(True for _ in part.buffers()))
        }

    def use(self, parts: Mapping[str, nn.Module]) -> None:
        """Takes other modules in place of those that :meth:`learned` returned.

        Args:
            parts: The modules, under the same names.
        """
        self.projector = parts.get('projector', self.projector)
        self.adapter.loss = parts.get('loss', self.adapter.loss)

    @property
    def remembers(self) -> bool:
        """Whether its loss keeps a memory that is updated at the end of each batch."""
        return hasattr(self.adapter.loss, 'build') and hasattr(self.adapter.loss, 'update')

    def detached_copy(self) -> LossTerm:
        """A copy with its own modules; calling it leaves this term unchanged.

        It skips the check for finite values. A schedule is not read, for it may ask for more than is known before
        training: the temperature is 1 then.
        """
        twin = copy.copy(self)
        twin._temperature = 1.0 if callable(self._temperature) else self._temperature
        twin.projector = copy.deepcopy(self.projector)
        twin.adapter = self.adapter.detached_copy()
        return twin

    def of_logits(
        self,
        state: State,
        student: Tensor | None,
        teacher: TeacherLogits | None,
        micro: Microbatch,
        whose: Sequence[int],
    ) -> Tensor:
        """Computes the loss on the logits of one microbatch, rescaled to its share of the whole batch.

        Args:
            state: The state of the run; schedules read its timestamp.
            student: The student's logits.
            teacher: The mean of the teachers' logits, or those of one teacher.
            micro: The microbatch.
            whose: The numbers of these teachers, for the error.

        Returns:
            The loss, a scalar.

        Raises:
            TeacherError: If the shapes differ and the loss does not allow that (attribute ``any_classes``).
        """
        assert student is not None
        assert teacher is not None
        self.check_fit(student.shape, teacher.shape, whose)
        self._set_temperature(state)
        value, per_position = self.adapter.of_logits(student, teacher, micro)
        return value if micro.share is None or not per_position else value * micro.share

    def check_fit(self, student: torch.Size, teacher: torch.Size, whose: Sequence[int]) -> None:
        """Checks the shapes of logits.

        Raises:
            TeacherError: If they differ and the loss does not allow that.
        """
        if teacher != student and not self.adapter.any_classes:
            raise misfit(student, teacher, ' and '.join(self._names[index] for index in whose))

    def of_features(
        self, state: State, student: Mapping[Key, Tensor], teacher: Mapping[Key, Tensor], micro: Microbatch
    ) -> Tensor:
        """Computes the loss on the features of one microbatch, rescaled to its share of the whole batch.

        Args:
            state: The state of the run; schedules read its timestamp.
            student: The student's features by layer.
            teacher: The teacher's features by layer and summary.
            micro: The microbatch.

        Returns:
            The loss, a scalar.
        """
        self._set_temperature(state)
        tokens, share = micro.side(self.match.student_layers[0])
        ours: Feature = [student[key] for key in self.student_keys]
        theirs: Feature = [teacher[key] for key in self.teacher_keys]
        if not self.match.several:
            ours, theirs = self._project(ours[0], theirs[0], tokens)
        if self.adapter.takes_for_logits(ours, theirs, micro):
            value, per_token = self.adapter.of_logits(ours, theirs, micro)  # type: ignore[arg-type]
            return value if micro.share is None or not per_token else value * micro.share
        value, per_token = self.adapter.of_features(
            ours, theirs, micro, tokens, micro.keys(self.match.student_layers[0])
        )
        return value if share is None or not per_token else value * share

    def _set_temperature(self, state: State) -> None:
        if self._temperature is None:
            return
        value = self.adapter.set_temperature(self._temperature, state)
        if callable(self._temperature):
            self.scheduled_temperature = value

    def own_targets(self, student: Mapping[Key, Tensor], micro: Microbatch) -> dict[Key, Tensor]:
        """What the student's own layers teach others: their features in this forward pass, without a graph.

        Args:
            student: The student's features by layer.
            micro: The microbatch.

        Returns:
            The features by layer and summary, as of a teacher.
        """
        found = {}
        for text, summary in self.teacher_keys:
            feature = student[(text, None)].detach()
            if summary is not None:
                feature = at_least_float32(feature)
                feature = summary(feature, token_mask(feature, micro.tokens_at(text)))
            found[(text, summary)] = feature
        return found

    def _project(self, student: Tensor, teacher: Tensor, tokens: Valid | None) -> tuple[Tensor, Tensor]:
        if self.projector is None:
            return student, teacher
        weights = next(self.projector.parameters(), student)
        student = student.to(weights.dtype)  # autocast gives half precision, but the projector runs outside it
        if not isinstance(self.projector, AutoProjector):
            try:
                return self.projector(student), teacher
            except (RuntimeError, ValueError, TypeError) as error:
                if is_of_device(error):
                    raise
                raise ConfigError(
                    f"Match {self.match.name!r}: the projector cannot take the student's {tuple(student.shape)} to the "
                    f"teacher's {tuple(teacher.shape)}: {error}"
                ) from error
        mask = None if tokens is None else tokens.mask
        if self.adapter.summary is not None:
            student = self.adapter.summary(student, token_mask(student, mask))
        return self.projector(student, teacher.to(weights.dtype), mask)

    def _projected(self, student: torch.Size, teacher: torch.Size) -> tuple[list[torch.Size], list[torch.Size]]:
        """The shapes after the projector; found with a copy, because a forward pass may change its statistics."""
        twin = copy.copy(self)
        twin.projector = copy.deepcopy(self.projector).eval()  # type: ignore[union-attr]
        device = next((tensor.device for tensor in twin.projector.parameters()), torch.device('cpu'))
        with torch.no_grad():
            seen = twin._project(torch.zeros(student, device=device), torch.zeros(teacher, device=device), None)
        return [seen[0].shape], [seen[1].shape]

    def _summarised(self, shape: torch.Size) -> torch.Size:
        return self.adapter.summary(torch.zeros(shape), None).shape


def misfit(student: torch.Size, teacher: torch.Size, name: str) -> TeacherError:
    """Makes the error for student and teacher logits of different shapes."""
    return TeacherError(
        f'The teacher {name!r} answers in the shape {tuple(teacher)}, the student in {tuple(student)}. Their '
        'logits must agree in shape, and mean the same classes in the same order. Was the teacher built for '
        'another number of classes, or does it need other inputs (FrozenTeacher(model, input_adapter=...))?'
        + _other_classes(student, teacher)
    )


def _other_classes(student: torch.Size, teacher: torch.Size) -> str:
    """The way out where the number of classes alone differs, as with vocabularies padded to a round number."""
    if student[:-1] != teacher[:-1] or not student:
        return ''
    fewer = min(student[-1], teacher[-1])
    return (
        f' If the first {fewer} classes are the same in both, as where the vocabulary of one tokenizer is padded to '
        'round numbers, compare those of the tokens: Distillation(..., vocabulary=N), with the number of tokens, at '
        f'most {fewer}. Models that have their tokenizers, HuggingFaceModel(model, tokenizer), need no number. Losses '
        'for other classes: UniversalLogit.'
    )
