"""Says in sentences how a distilled language model compares: perplexity against size and the speed of writing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from composer_kd.presentation.units import MINUS, number_text, quartiles_text, seconds_text, times
from composer_kd.reports.groups import Group
from composer_kd.reports.speed import Speed, device_text
from composer_kd.reports.statistics import Difference
from composer_kd.reports.token_losses import cross_entropy, loss_difference, perplexity

__all__ = ['all_losses', 'language_tiles', 'of_language_alone', 'of_language_teacher']


def of_language_teacher(student: Group, teacher: Group, size: str, speed: Speed) -> str:
    """Weighs what a student loses in perplexity against what it gains in size and speed.

    Args:
        student: The distilled student; its cross-entropy is known.
        teacher: Its teacher; likewise.
        size: How its size compares, such as ``'2.0× smaller on disk'``.
        speed: The timings.

    Returns:
        A few sentences. Differences within the noise are reported as such.
    """
    difference = loss_difference(student, teacher)
    numbers = f"{_number(student)} against its teacher's {_number(teacher)}"
    if difference is not None and not difference.is_clear:
        both = f'{_number(student)} against {_number(teacher)}; {_interval(difference)}'
        start = f"is within the noise of its teacher's perplexity ({both})"
        price = 'at no measurable cost in perplexity'
    else:
        start = f'has a perplexity of {numbers}'
        start += '' if difference is None else f' ({_interval(difference)})'
        price = _price(student, teacher)
    faster = _faster(student, speed)
    sentence = f'The distilled student {start} and is {size}.'
    if not faster:
        return f'{sentence} How fast it writes beside its teacher is not known.'
    return f'{sentence} It writes the next token {" and ".join(faster)}, {price}.'


def _price(student: Group, teacher: Group) -> str:
    """What the speed costs: the relative change of the perplexity."""
    mine, theirs = cross_entropy(student), cross_entropy(teacher)
    assert mine is not None
    assert theirs is not None
    change = math.expm1(min(mine.mean - theirs.mean, 700.0))
    start = 'at the price of' if change > 0 else 'with'
    return f'{start} {number_text(100 * abs(change))} % {"more" if change > 0 else "less"} perplexity'


def _faster(student: Group, speed: Speed) -> list[str]:
    found = []
    for device in speed.devices[:3]:
        timing = speed.find(student, device)
        writing = None if timing is None else speed.writing(timing)
        one, ratio = writing if writing is not None else (None, None)
        if one is None or ratio is None:
            continue
        where = f'({device_text(device)}, after {one.prompt} tokens)'
        if not ratio.is_clear:
            found.append(f'not measurably faster or slower {where}')
        else:
            factor = times(max(ratio.median, 1 / ratio.median))
            found.append(f'{factor} {"faster" if ratio.median > 1 else "slower"} {where}')
    return found


def of_language_alone(student: Group, alone: Group) -> str:
    """Says what distillation changed in the perplexity of a student.

    Args:
        student: The distilled student; its cross-entropy is known.
        alone: The student alone; likewise.
    """
    difference = loss_difference(student, alone, in_pairs=True)
    numbers = f'from {_number(alone)} to {_number(student)}'
    if difference is None:
        return f'Distillation changed the perplexity of the student {numbers}.'
    if not difference.is_clear:
        return (
            f'Between the student alone and distilled there is no clear difference: perplexity {numbers} '
            f'({_interval(difference)}).'
        )
    verb = 'lowered' if difference.mean < 0 else 'raised'
    caution = '; one seed, so take it with caution' if min(student.n, alone.n) < 2 else ''
    return f'Distillation {verb} the perplexity of the student {numbers} ({_interval(difference)}{caution}).'


def all_losses(groups: Sequence[Group]) -> str:
    """Lists the perplexities of models of which none was distilled."""
    listed = '; '.join(f'{one.name} {_number(one)}' for one in groups if cross_entropy(one) is not None)
    return f'Perplexity: {listed}.'


def language_tiles(
    student: Group, teacher: Group | None, alone: Group | None, speed: Speed
) -> list[tuple[str, str, str]]:
    """Builds the tiles of a language model: value, label and detail of each.

    Args:
        student: The distilled student; its cross-entropy is known.
        teacher: Its teacher, if there is one.
        alone: The student alone, if there is one.
        speed: The timings.
    """
    of_teacher = '' if teacher is None or perplexity(teacher) is None else f'{_number(teacher)} the teacher'
    found = [(_number(student), 'perplexity', of_teacher)]
    difference = None if alone is None else loss_difference(student, alone, in_pairs=True)
    if difference is not None:
        interval = f'95 % interval {_signed(difference.low)} to {_signed(difference.high)} over {difference.over}'
        found.append((_signed(difference.mean), 'nats per token over the student alone', interval))
    for device in speed.devices[:2]:
        timing = speed.find(student, device)
        writing = None if timing is None else speed.writing(timing)
        one, ratio = writing if writing is not None else (None, None)
        if one is None or ratio is None or not ratio.is_clear:
            continue
        detail = f'{seconds_text(one.token_seconds)} per token; quartiles {quartiles_text((ratio.low, ratio.high))}'
        found.append((times(ratio.median), f'as fast at writing on {device_text(device)}', detail))
    return found


def _number(group: Group) -> str:
    found = perplexity(group)
    return 'more than can be written' if found is None else number_text(found)


def _interval(difference: Difference) -> str:
    return (
        f'{_signed(difference.mean)} nats per token, 95 % interval {_signed(difference.low)} to '
        f'{_signed(difference.high)} over {difference.over}'
    )


def _signed(value: float) -> str:
    return f'{value:+.3f}'.replace('-', MINUS)
