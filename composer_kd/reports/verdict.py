"""Summarises the result of the distillation in sentences and large numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from composer_kd.presentation.roles import DISTILLED
from composer_kd.presentation.units import percent, points, quartiles_text, times
from composer_kd.reports.evidence import EvaluationSet
from composer_kd.reports.groups import Group, also_differing, counterpart, gain, taught_by
from composer_kd.reports.language import all_losses, language_tiles, of_language_alone, of_language_teacher
from composer_kd.reports.speed import Speed, device_text
from composer_kd.reports.statistics import Difference, difference_of_answers
from composer_kd.reports.token_losses import cross_entropy, predicts_tokens

__all__ = ['Tile', 'tiles', 'verdict']


@dataclass(frozen=True)
class Tile:
    """A large number at the top of the page.

    Args:
        value: The number with its unit.
        label: The name of the quantity.
        detail: How to read it, such as the confidence interval.
    """

    value: str
    label: str
    detail: str = ''


def chosen(groups: Sequence[Group], evaluation: EvaluationSet) -> Group | None:
    """Returns the distilled student with the best accuracy or, of language models, the least cross-entropy; or None."""
    distilled = [one for one in groups if one.role == DISTILLED]

    if evaluation.left_out is not None and distilled and predicts_tokens(distilled):
        return min(distilled, key=lambda one: cross.mean if (cross := cross_entropy(one)) is not None else math.inf)

    def accuracy(one: Group) -> float:
        found = one.accuracy(evaluation)
        return found.mean if found is not None else 0.0

    return max(distilled, key=accuracy, default=None)


def to_teacher(student: Group, teacher: Group, evaluation: EvaluationSet) -> Difference | None:
    """Computes the student's accuracy minus the teacher's over the samples; None without predictions of both."""
    mine, theirs = student.correct(evaluation), teacher.correct(evaluation)
    return None if mine is None or theirs is None else difference_of_answers(mine, theirs)


def verdict(groups: Sequence[Group], evaluation: EvaluationSet, speed: Speed) -> list[str]:
    """Compares the distilled student with its teacher and with the student alone.

    Args:
        groups: The models.
        evaluation: The data on which they were evaluated.
        speed: Their timings.

    Returns:
        The result in a few sentences. Differences within the noise are reported as such.
    """
    student = chosen(groups, evaluation)
    if student is None:
        return [_without_a_student(groups, evaluation)]
    found = []
    teacher, alone = taught_by(student, groups), counterpart(student, groups)
    if teacher is not None:
        found.append(_of_teacher(student, teacher, evaluation, speed))
    if alone is not None:
        found.append(_of_alone(student, alone, evaluation))
        found += _caution(student, alone)
    else:
        found.append(
            'What distillation itself gained cannot be said: no run of the same model without a teacher is given.'
        )
    others = sum(one.role == DISTILLED for one in groups) - 1
    if others:
        measure = 'cross-entropy' if _by_tokens(student, evaluation) else 'accuracy'
        found.append(
            f'{student.name} is the best of {others + 1} distilled students by this very evaluation data, so its '
            f'{measure} flatters it a little.'
        )
    return found


def _without_a_student(groups: Sequence[Group], evaluation: EvaluationSet) -> str:
    if evaluation.left_out is not None and predicts_tokens(groups):
        return f'No distilled student is among these runs, so nothing is compared with a teacher. {all_losses(groups)}'
    known = [(one, found) for one in groups if (found := one.accuracy(evaluation)) is not None]
    listed = '; '.join(f'{one.name} {percent(found.mean, found.error)} %' for one, found in known)
    return (
        'No distilled student is among these runs, so nothing is compared with a teacher. '
        f'Accuracy: {listed or "unknown"}.'
    )


def _of_teacher(student: Group, teacher: Group, evaluation: EvaluationSet, speed: Speed) -> str:
    if _by_tokens(student, evaluation) and _by_tokens(teacher, evaluation):
        return of_language_teacher(student, teacher, ' '.join(filter(None, _size(student, teacher))), speed)
    mine, theirs = student.accuracy(evaluation), teacher.accuracy(evaluation)
    parts = []
    if mine is not None and theirs is not None and theirs.mean > 0:
        numbers = f'{percent(mine.mean, mine.error)} % against {percent(theirs.mean, theirs.error)} %'
        difference = to_teacher(student, teacher, evaluation)
        if difference is not None and not difference.is_clear:
            parts.append(
                f"is within the noise of its teacher's accuracy ({numbers}; 95 % interval of the difference "
                f'{points(difference.low)} to {points(difference.high)} points over {difference.over})'
            )
        else:
            parts.append(f"keeps {100 * mine.mean / theirs.mean:.1f} % of its teacher's accuracy ({numbers})")
    parts.append(' '.join(['is', *filter(None, _size(student, teacher))]))
    faster = _faster(student, speed)
    return f'The distilled student {_listed([*parts, *([faster] if faster else [])])}.'


def _size(student: Group, teacher: Group) -> tuple[str, str]:
    """Returns the factor between the sizes on disk and its label; the factor is empty if the sizes are equal."""
    ratio = teacher.first.file_bytes / max(1, student.first.file_bytes)
    if 0.95 < ratio < 1.05:
        return '', 'as large on disk'
    return (times(ratio), 'smaller on disk') if ratio > 1 else (times(1 / ratio), 'larger on disk')


def _parameters(student: Group, teacher: Group) -> str:
    ratio = teacher.first.parameters / max(1, student.first.parameters)
    return f'{times(ratio)} fewer parameters' if ratio > 1 else f'{times(1 / max(ratio, 1e-9))} as many parameters'


def _faster(student: Group, speed: Speed) -> str:
    found = []
    for device in speed.devices:
        timing = speed.find(student, device)
        factor = None if timing is None else speed.speed_up(timing)
        if timing is None or factor is None:
            continue
        where = f'({device_text(device)})'
        word = 'faster' if factor > 1 else 'slower'
        if not speed.is_clear(timing):
            found.append(f'not measurably faster or slower {where}')
        elif speed.is_rough(timing):
            found.append(f'{word}, with too much noise to say by how much {where}')
        else:
            found.append(f'{times(max(factor, 1 / factor))} {word} {where}')
    doubt = f' (timings in doubt: {speed.doubt})' if speed.doubt else ''
    return f'answers one sample {_listed(found[:3])}{doubt}' if found else ''


def _by_tokens(group: Group, evaluation: EvaluationSet) -> bool:
    """Whether a group is judged by the cross-entropy of tokens, not by the accuracy on samples."""
    return evaluation.left_out is not None and cross_entropy(group) is not None


def _of_alone(student: Group, alone: Group, evaluation: EvaluationSet) -> str:
    if _by_tokens(student, evaluation) and _by_tokens(alone, evaluation):
        return of_language_alone(student, alone)
    mine, theirs = student.accuracy(evaluation), alone.accuracy(evaluation)
    if mine is None or theirs is None:
        return 'What distillation gained cannot be said: the accuracy of a run is not known.'
    numbers = f'from {percent(theirs.mean, theirs.error)} % to {percent(mine.mean, mine.error)} %'
    change = mine.mean - theirs.mean
    difference = gain(student, alone, evaluation)
    if difference is None:
        return f'Distillation changed the student {numbers} ({points(change)} points).'
    interval = f'95 % interval {points(difference.low)} to {points(difference.high)} over {difference.over}'
    if not difference.is_clear:
        return (
            f'Between the student alone and distilled there is no clear difference: {numbers} ({points(change)} '
            f'points, {interval}).'
        )
    verb = 'took' if change > 0 else 'lowered'
    caution = '; one seed, so take it with caution' if min(student.n, alone.n) < 2 else ''
    return f'Distillation {verb} the student {numbers}: {points(change)} points ({interval}{caution}).'


def _caution(student: Group, alone: Group) -> list[str]:
    keys = also_differing(student, alone)
    if not keys:
        return []
    named = keys if len(keys) <= 3 else [*keys[:2], f'{len(keys) - 2} more settings']
    return [f'The two differ in {_listed(named)} too, so this need not be all due to distillation.']


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f'{", ".join(parts[:-1])} and {parts[-1]}'


def tiles(groups: Sequence[Group], evaluation: EvaluationSet, speed: Speed) -> list[Tile]:
    """Builds the tiles with the main numbers of the verdict.

    Args:
        groups: The models.
        evaluation: The data on which they were evaluated.
        speed: Their timings.

    Returns:
        The tiles whose numbers are known.
    """
    student = chosen(groups, evaluation)
    if student is None:
        return []
    teacher, alone = taught_by(student, groups), counterpart(student, groups)
    if _by_tokens(student, evaluation):
        found = [Tile(*one) for one in language_tiles(student, teacher, alone, speed)]
    else:
        found = [] if teacher is None else _tile_of_teacher(student, teacher, evaluation)
        found += [] if alone is None else _tile_of_gain(student, alone, evaluation)
    found += [] if teacher is None else [*_tile_of_size(student, teacher), *_tiles_of_speed(student, speed)]
    return found


def _tile_of_teacher(student: Group, teacher: Group, evaluation: EvaluationSet) -> list[Tile]:
    mine, theirs = student.accuracy(evaluation), teacher.accuracy(evaluation)
    if mine is None or theirs is None or not theirs.mean:
        return []
    label = "of the teacher's accuracy"
    return [Tile(f'{percent(mine.mean / theirs.mean)} %', label, f'{percent(mine.mean)} of {percent(theirs.mean)} %')]


def _tile_of_gain(student: Group, alone: Group, evaluation: EvaluationSet) -> list[Tile]:
    mine, base = student.accuracy(evaluation), alone.accuracy(evaluation)
    if mine is None or base is None:
        return []
    difference = gain(student, alone, evaluation)
    detail = (
        ''
        if difference is None
        else f'95 % interval {points(difference.low)} to {points(difference.high)} over {difference.over}'
    )
    return [Tile(points(mine.mean - base.mean), 'points over the student alone', detail)]


def _tile_of_size(student: Group, teacher: Group) -> list[Tile]:
    factor, label = _size(student, teacher)
    return [Tile(factor, label, _parameters(student, teacher))] if factor else []


def _tiles_of_speed(student: Group, speed: Speed) -> list[Tile]:
    found = []
    for device in speed.devices[:2]:
        timing = speed.find(student, device)
        factor = None if timing is None else speed.speed_up(timing)
        if timing is not None and factor is not None and speed.is_clear(timing) and not speed.is_rough(timing):
            between = quartiles_text(speed.shown_quartiles(timing))
            detail = 'eager, fp32, one sample' + (f'; quartiles {between}' if between else '')
            detail += f'. In doubt: {speed.doubt}' if speed.doubt else ''
            word = 'as fast' if factor >= 0.95 else 'slower'
            value = times(factor if factor >= 0.95 else 1 / factor)
            found.append(Tile(value, f'{word} on {device_text(device)}', detail))
    return found
