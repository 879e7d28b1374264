"""Binds matches to teachers as loss terms, and refuses what cannot be bound."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from composer_kd.errors import ConfigError, nearest
from composer_kd.losses.sparse import SparseTarget
from composer_kd.matches.match import STUDENT, Match
from composer_kd.matches.term import LossTerm
from composer_kd.teachers import Teacher, TeacherPool, cut, module_of, own_token_names

__all__ = ['bind', 'check_own_tokens', 'check_targets', 'layers_of', 'refuse_shared_modules']


def bind(match: Match, names: Sequence[str]) -> list[LossTerm]:
    """Makes the loss terms of a match.

    Args:
        match: The match.
        names: The names of all teachers.

    Returns:
        One term for the teacher that the match names, or for the student's own layers. Otherwise one for the mean
        logits of all teachers or, for a match of features, one for each teacher.

    Raises:
        ConfigError: If the match names no teacher, or several; or if there is none.

    Example:
        >>> from composer_kd.losses import mse
        >>> [term.teacher for term in bind(Match(mse, on='layer2'), ['large', 'larger'])]
        [0, 1]
        >>> [term.teacher for term in bind(Match(mse), ['large', 'larger'])]
        [None]
    """
    if match.teacher == STUDENT:
        _check_own(match, names)
        numbers: Sequence[int | None] = [None]
    elif not names:
        raise ConfigError(
            'No teachers: expected a module, a list of modules, or {checkpoint: module}. Only matches between layers '
            "of the student need none: Match(..., on=('layer1', 'layer2'), teacher='student')."
        )
    elif match.teacher is None:
        numbers = [None] if match.on_logits else range(len(names))
    else:
        numbers = [number for number, name in enumerate(names) if name == match.teacher]
        if len(numbers) != 1:
            found = 'no teacher' if not numbers else f'{len(numbers)} teachers'
            raise ConfigError(
                f'Match {match.name!r}: {found} of that name, {match.teacher!r}'
                f'{nearest(match.teacher, set(names))}. FrozenTeacher(model, name=...) names one.'
            )
    return [LossTerm(match, number, position == 0, names) for position, number in enumerate(numbers)]


def _check_own(match: Match, names: Sequence[str]) -> None:
    """Refuses matches of the student with itself from which nothing could be learned."""
    if STUDENT in names:
        raise ConfigError(
            f'Match {match.name!r}: {STUDENT!r} is the student itself, and a teacher has that name too. Give the '
            'teacher another: FrozenTeacher(model, name=...).'
        )
    if match.on_logits or match.student_layers == match.teacher_layers:
        what = 'logits' if match.on_logits else repr(match.student_layers[0])
        raise ConfigError(
            f'Match {match.name!r} compares {what} of the student with itself, which is always 0. Name two layers, the '
            "one that learns first: on=('layer1', 'layer2'). Logits of an earlier student: EMATeacher, SnapshotTeacher."
        )


def refuse_shared_modules(terms: Sequence[LossTerm]) -> None:
    """Checks that no two matches share a module with parameters.

    Raises:
        ConfigError: If two do: its parameters would be registered and updated twice.
    """
    owner: dict[int, str] = {}
    for term in terms:
        loss = term.adapter.loss
        unbuilt = [loss] if term.waits and hasattr(loss, 'build') else []
        for thing in (*unbuilt, *(p for part in term.learned().values() for p in part.parameters())):
            if owner.setdefault(id(thing), term.match.name) != term.match.name:
                raise ConfigError(
                    f'The matches {owner[id(thing)]!r} and {term.match.name!r} share a module that learns. '
                    'Give each its own (copy.deepcopy).'
                )


def check_targets(terms: Sequence[LossTerm], pool: TeacherPool) -> None:
    """Refuses losses that teachers which keep a part of the classes cannot serve.

    Raises:
        LossError: If a loss on logits cannot be taken of what its teacher keeps.
        TeacherError: If it keeps a part of more classes than are compared.
    """
    for number, teacher in enumerate(pool.teachers):
        example = getattr(teacher, 'example', None)
        target = None if example is None else example()
        for term in terms:
            if isinstance(target, SparseTarget) and term.match.on_logits and term.teacher in (number, None):
                compared = cut(target, pool.vocabulary, f'the teacher {teacher.name!r}')
                if isinstance(compared, SparseTarget):
                    term.adapter.check_target(compared, term.match.temperature)


def check_own_tokens(terms: Sequence[LossTerm], pool: TeacherPool) -> None:
    """Refuses what compares a teacher that reads its own tokens class by class, or token by token.

    Raises:
        ConfigError: If a match does, or such a teacher would be one of several whose logits are averaged.
    """
    names = own_token_names(pool.teachers)
    if names and pool.vocabulary is not None:
        raise ConfigError(
            f'vocabulary={pool.vocabulary}: the teacher {names[0]!r} has another tokenizer, whose tokens it would cut. '
            'Leave it out, and take teachers with the tokenizer of the student into another run.'
        )
    for term in terms if names else ():
        mine = names if term.teacher is None else own_token_names([pool.teachers[term.teacher]])
        if not mine:
            continue
        said = f'Match {term.match.name!r}: the teacher {mine[0]!r} has another tokenizer than the student'
        if not term.match.on_logits:
            raise ConfigError(f'{said}, so its layers have other tokens at other places. Match its logits alone.')
        if not term.adapter.any_classes:
            raise ConfigError(
                f'{said}: the same class is another token. Take a loss that compares no class with its own: '
                'composer_kd.losses.UniversalLogit().'
            )
        if term.teacher is None and len(pool.teachers) > 1:
            raise ConfigError(
                f'{said}, so its logits have no mean with those of the others. Give each teacher a match of its own: '
                'Match(loss, teacher=name).'
            )


def layers_of(teacher: Teacher) -> nn.Module:
    """The module whose layers can be matched.

    Raises:
        ConfigError: If the teacher has none.
    """
    module = module_of(teacher)
    if module is None:
        raise ConfigError(
            f'The teacher {teacher.name!r} ({type(teacher).__name__}) has no layers to match: it has no module under '
            'the attribute `model`. Match its logits, or bind the matches of layers to other teachers: '
            'Match(..., teacher=name).'
        )
    return module
