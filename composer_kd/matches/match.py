"""One comparison of a student with its teachers: a loss, the layers, a weight and, where shapes differ, a projector."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeAlias

from torch import nn

from composer_kd.errors import ConfigError
from composer_kd.features.hooks import LayerPath
from composer_kd.matches.loss_signature import Loss, attribute_of, checked_loss, name_of, parameters_of
from composer_kd.matches.projector import PROJECTORS
from composer_kd.schedules import Schedule, number_or_schedule

__all__ = ['STUDENT', 'Losses', 'Match', 'Where', 'as_matches']

Where: TypeAlias = str | Sequence[str]

LOGITS = 'logits'
STUDENT: Final = 'student'
"""The name of a match's teacher if layers of the student teach others of its layers."""
_TAKEN = ('total', 'task', 'kd')
# What every logger takes in a metric's name; MLflow drops all metrics of a batch for one name with other characters.
_NOT_LOGGABLE = re.compile(r'[^\w./ :-]')


class Match:
    """One comparison: a loss on logits or on layers, with a weight and, where the shapes differ, a projector.

    Args:
        loss: Any ``(student, teacher) -> scalar``. If it has parameters named ``labels``, ``mask`` or ``index``, it
            gets the class of each row, the mask of valid positions, and ``(B,)`` the samples' numbers in the data set.
        on: ``'logits'``; a layer that both models have; or a pair ``(student layer, teacher layer)``. Each entry of the
            pair may be a list of layers, for a loss that takes several. :class:`.LayerPath` says how layers are
            written.
        weight: The match's weight in the distillation loss: a number of 0 or more, or a schedule (a :class:`.Ramp`, any
            Composer scheduler, a function of the state).
        project: ``'auto'`` for the smallest projector that fits the two shapes (:class:`.AutoProjector`; the shapes are
            measured before training, on the first samples of the train dataloader); ``'orthogonal'`` for one that keeps
            lengths and angles (:class:`.OrthogonalProjector`); or a module that maps the student's feature to the shape
            of the teacher's. The student's optimizer trains its parameters.
        name: The name in the log, ``loss/train/<name>``, of letters, digits and ``_ . / : -`` and spaces; ``None`` for
            a name made of the loss and the layers (``hint_rnn.0`` for ``hint`` on ``'rnn[0]'``).
        teacher: The name of the only teacher to compare with; ``None`` for all teachers: the mean of their logits, or
            the weighted mean of the losses on each teacher's layers, with one projector per teacher. ``'student'`` is
            the student itself: its second layer of ``on`` teaches the first, in the same forward pass.
        temperature: The loss's temperature, set anew for each batch: a positive number, or a schedule.
        lr: The learning rate of the match's auxiliary modules; ``None`` for the optimizer's.

    Raises:
        ConfigError: If a setting is not as described.

    Example:
        >>> from composer_kd.losses import KLDivergence, hint
        >>> Match(hint, on=('layer2', 'layer3'), project=nn.Conv2d(64, 256, 1), weight=100.0)
        Match(hint, on=('layer2', 'layer3'), weight=100.0, name='hint_layer2')
    """

    def __init__(
        self,
        loss: Loss,
        on: Where | tuple[Where, Where] = LOGITS,
        weight: float | Schedule = 1.0,
        project: nn.Module | str | None = None,
        name: str | None = None,
        *,
        teacher: str | None = None,
        temperature: float | Schedule | None = None,
        lr: float | None = None,
    ) -> None:
        self.loss, self.on = checked_loss(loss), on
        self.student_layers, self.teacher_layers = _sides(on)
        self.several = not all(isinstance(side, str) for side in _pair(on))
        self.weight = number_or_schedule('weight', weight, 0.0)
        written = name if name is not None else self._written_name()
        if not isinstance(written, str) or not written or written in _TAKEN:
            raise ConfigError(f'name must be a string other than {", ".join(map(repr, _TAKEN))}, got {name!r}')
        self.name = _loggable(written)
        if name is not None and self.name != name:
            raise ConfigError(
                f'name: not every logger takes {name!r}; use letters, digits, spaces and _ . / : -, as in {self.name!r}'
            )
        self._written = written
        made = isinstance(project, str) and project in PROJECTORS
        if project is not None and not made and not isinstance(project, nn.Module):
            names = ', '.join(map(repr, PROJECTORS))
            raise ConfigError(f'project must be None, {names} or a torch.nn.Module, got {project!r}')
        if project is not None and (self.on_logits or self.several):
            raise ConfigError(
                f'{self.name}: a projector joins two features, not logits or several layers; leave it out'
            )
        if self.on_logits and attribute_of(self.loss, 'of_features_alone', False):
            raise ConfigError(
                f'{self.name}: {name_of(self.loss)} compares hidden states; name a layer, as on="encoder.layer.0[0]"'
            )
        self.project = project
        self.teacher = teacher
        self.temperature = temperature
        if temperature is not None:
            self.temperature = number_or_schedule('temperature', temperature, 0.0, strict=True)
            if not (hasattr(loss, 'temperature') or 'temperature' in parameters_of(loss)):
                raise ConfigError(f'{self.name}: the loss {name_of(loss)} has no temperature that could be set')
        if lr is not None and (callable(lr) or not number_or_schedule('lr', lr, 0.0, strict=True)):
            raise ConfigError(f"lr must be a number, which follows the optimizer's own schedule, got {lr!r}")
        self.lr = lr

    @property
    def on_logits(self) -> bool:
        """Whether it compares logits, not features."""
        return self.student_layers == [LOGITS]

    @property
    def key(self) -> str:
        """Its name as a valid name of a module; of a default name as written, which checkpoints contain."""
        return re.sub(r'\W', '_', self._written)

    def _written_name(self) -> str:
        if self.on_logits:
            return name_of(self.loss)
        return f'{name_of(self.loss)}_{"_".join(self.student_layers)}'

    def __repr__(self) -> str:
        on: Any = LOGITS
        if not self.on_logits:
            on = tuple(s if self.several else s[0] for s in (self.student_layers, self.teacher_layers))
        return f'Match({name_of(self.loss)}, on={on!r}, weight={self.weight!r}, name={self.name!r})'


Losses: TypeAlias = Annotated[Loss | Match | Sequence[Loss | Match], 'losses and matches']
"""A loss on logits, a :class:`Match`, or a list of these; the annotation by which a YAML file recognises losses."""


def _pair(on: Any) -> tuple[Any, Any]:
    if isinstance(on, str):
        return on, on
    if isinstance(on, Sequence) and len(on) == 2:
        return on[0], on[1]
    raise ConfigError(
        f"on must be 'logits', a layer, or a pair (student layer, teacher layer), each a layer or a list of layers; "
        f'got {on!r}'
    )


def _sides(on: Any) -> tuple[list[str], list[str]]:
    student, teacher = ([side] if isinstance(side, str) else list(side) for side in _pair(on))
    if (LOGITS in student or LOGITS in teacher) and (student != [LOGITS] or teacher != [LOGITS]):
        raise ConfigError(f'on: logits are compared with logits, got {on!r}')
    if not student or not teacher:
        raise ConfigError(f'on: expected at least one layer on each side, got {on!r}')
    for text in (*student, *teacher):
        if text != LOGITS:
            LayerPath.parse(text)
    return student, teacher


def _loggable(name: str) -> str:
    """A name with the characters alone that every logger takes; an index ``[i]`` becomes ``.i``."""
    cleaned = _NOT_LOGGABLE.sub('', re.sub(r'\[([^\]]*)\]', r'.\1', name))
    return '/'.join(part for part in cleaned.split('/') if part not in ('', '.', '..')) or 'match'


def as_matches(given: Losses) -> tuple[list[Match], bool]:
    """Converts the argument ``kd_loss_fn`` to matches.

    Args:
        given: A loss, a match, or a list of them.

    Returns:
        The matches, and whether each is logged under its own name, as matches and lists are.

    Raises:
        ConfigError: If the list is empty, a loss is not callable, or two matches have the same name.
    """
    if isinstance(given, Match):
        return [given], True
    if callable(given) or not isinstance(given, Sequence) or isinstance(given, str):
        return [Match(given)], False
    if not given:
        raise ConfigError('kd_loss_fn: expected a loss, a Match, or a list of them, got an empty list')
    matches = [item if isinstance(item, Match) else Match(item) for item in given]
    keys, names = [match.key for match in matches], [match.name for match in matches]
    twice = sorted({one.name for one in matches if keys.count(one.key) > 1 or names.count(one.name) > 1})
    if twice:
        raise ConfigError(
            f'Two matches are called {twice[0]!r}, under which each is logged. Tell them apart: Match(..., name=...)'
        )
    return matches, True
