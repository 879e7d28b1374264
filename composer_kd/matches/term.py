"""A match bound to one teacher, with what it learns."""

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
from composer_kd.matches.loss_adapter import Feature, LossAdapter
from composer_kd.matches.match import Match
from composer_kd.matches.projector import AutoProjector

__all__ = ['Key', 'LossTerm', 'misfit']

Key = tuple[str, Summary | None]


class LossTerm:
    """One match and one teacher, or the mean of all teachers' logits.

    Args:
        match: What is compared.
        teacher: The teacher's number; ``None`` for the mean of their logits.
        is_first: Whether no other term of this match came before: only that one takes the user's own modules, the
            others copies.
        names: All teachers' names, for messages.
    """

    def __init__(self, match: Match, teacher: int | None, is_first: bool, names: Sequence[str]) -> None:
        loss = match.loss
        if isinstance(loss, nn.Module) and not is_first:
            loss = copy.deepcopy(loss)
        self.match, self.teacher, self._names = match, teacher, names
        self.adapter = LossAdapter(loss, match.name)
        self.projector: nn.Module | None = None
        if isinstance(match.project, nn.Module):
            self.projector = match.project if is_first else copy.deepcopy(match.project)
        on_layers = not match.on_logits
        self.student_keys: list[Key] = [(text, None) for text in match.student_layers] if on_layers else []
        # The student's features are in its graph anyway; of a teacher's no more is kept than is needed.
        self.teacher_keys: list[Key] = [(text, self.adapter.summary) for text in match.teacher_layers if on_layers]

    @property
    def waits(self) -> bool:
        """Whether shapes must be measured before its modules can be made."""
        loss = self.adapter.loss
        unbuilt = isinstance(loss, nn.Module) and hasattr(loss, 'build') and not any(True for _ in loss.parameters())
        return unbuilt or (self.match.project == 'auto' and self.projector is None)

    def build(self, student: Mapping[Key, torch.Size], teacher: Mapping[Key, torch.Size]) -> None:
        """Makes what waits for shapes.

        Raises:
            ConfigError: If nothing joins them, or the loss does not take them.
        """
        shapes = [student[key] for key in self.student_keys], [teacher[key] for key in self.teacher_keys]
        if self.match.project == 'auto':
            if self.adapter.summary is not None:
                shapes[0][0] = self._summarised(shapes[0][0])
            self.projector = AutoProjector(shapes[0][0], shapes[1][0], f'Match {self.match.name!r}')
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
        """The modules with parameters or a memory of their own."""
        loss = self.adapter.loss
        parts = {'projector': self.projector, 'loss': loss if isinstance(loss, nn.Module) else None}
        return {
            name: part
            for name, part in parts.items()
            if part is not None and (any(True for _ in part.parameters()) or any(True for _ in part.buffers()))
        }

    @property
    def remembers(self) -> bool:
        """Whether its loss has a memory that is written at the end of a batch."""
        return hasattr(self.adapter.loss, 'build') and hasattr(self.adapter.loss, 'update')

    def detached_copy(self) -> LossTerm:
        """A copy that may be tried without leaving a trace, and minds no loss that is no number."""
        twin = copy.copy(self)
        twin.projector = copy.deepcopy(self.projector)
        twin.adapter = self.adapter.detached_copy()
        return twin

    def of_logits(
        self, state: State, student: Tensor | None, teacher: Tensor | None, micro: Microbatch, whose: Sequence[int]
    ) -> Tensor:
        """The loss of one microbatch's logits, corrected to its part in the whole batch.

        Args:
            state: The state of the run.
            student: The student's logits.
            teacher: The teachers' mean logits, or those of one of them.
            micro: The microbatch.
            whose: The teachers' numbers.

        Raises:
            TeacherError: If the shapes differ, and the loss does not take that.
        """
        assert student is not None
        assert teacher is not None
        if teacher.shape != student.shape and not self.adapter.any_classes:
            raise misfit(student.shape, teacher.shape, ' and '.join(self._names[index] for index in whose))
        if self.match.temperature is not None:
            self.adapter.set_temperature(self.match.temperature, state)
        value, per_position = self.adapter.of_logits(student, teacher, micro)
        return value if micro.share is None or not per_position else value * micro.share

    def of_features(
        self, state: State, student: Mapping[Key, Tensor], teacher: Mapping[Key, Tensor], micro: Microbatch
    ) -> Tensor:
        """The loss of one microbatch's features, likewise."""
        if self.match.temperature is not None:
            self.adapter.set_temperature(self.match.temperature, state)
        ours: Feature = [student[key] for key in self.student_keys]
        theirs: Feature = [teacher[key] for key in self.teacher_keys]
        if not self.match.several:
            ours, theirs = self._project(ours[0], theirs[0], micro.tokens)
        value, per_token = self.adapter.of_features(ours, theirs, micro)
        return value if micro.token_share is None or not per_token else value * micro.token_share

    def _project(self, student: Tensor, teacher: Tensor, tokens: Valid | None) -> tuple[Tensor, Tensor]:
        if self.projector is None:
            return student, teacher
        weights = next(self.projector.parameters(), student)
        student = student.to(weights.dtype)  # half precision comes from autocast, the projector runs outside of it
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
        """The shapes behind the projector, found with a copy, whose statistics may change."""
        twin = copy.copy(self)
        twin.projector = copy.deepcopy(self.projector).eval()  # type: ignore[union-attr]
        device = next((tensor.device for tensor in twin.projector.parameters()), torch.device('cpu'))
        with torch.no_grad():
            seen = twin._project(torch.zeros(student, device=device), torch.zeros(teacher, device=device), None)
        return [seen[0].shape], [seen[1].shape]

    def _summarised(self, shape: torch.Size) -> torch.Size:
        return self.adapter.summary(torch.zeros(shape), None).shape


def misfit(student: torch.Size, teacher: torch.Size, name: str) -> TeacherError:
    """The error for logits that do not fit one another."""
    return TeacherError(
        f'The teacher {name!r} answers in the shape {tuple(teacher)}, the student in {tuple(student)}. Their '
        'logits must agree in shape, and mean the same classes in the same order. Was the teacher built for '
        'another number of classes, or does it need other inputs (FrozenTeacher(model, input_adapter=...))?'
    )
