"""The laws, one function each, which raises ``AssertionError`` if a loss breaks the law."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from composer_kd.testing.tools import (
    Case,
    arrays,
    as_list,
    counts,
    drawn,
    each,
    gradients,
    hold,
    hold_close,
    hold_finite,
    leaves,
    steepest,
    to_float32,
    twice,
    value_of,
)

__all__ = ['LAWS', 'laws_of']


def laws_of(case: Case) -> dict[str, Callable[[Case], None]]:
    """Selects the laws that apply to a case, by its fields.

    Args:
        case: A loss, and which laws it should obey.

    Returns:
        The functions in ``LAWS`` that apply, by name.
    """
    obeyed = {
        'reference': case.reference is not None,
        'zero at equality': case.zero_at_equality,
        'minimum at equality': case.minimum_at_equality,
        'same for a repeated batch': case.repeats,
        'gradcheck': case.gradcheck,
        'masked positions never count': drawn(case)[2].get('mask') is not None,
    }
    return {name: law for name, law in LAWS.items() if obeyed.get(name, True)}


def _scalar(case: Case) -> None:
    student, teacher, extra = drawn(case)
    value = value_of(case, leaves(student), teacher, extra)
    hold(isinstance(value, Tensor) and value.ndim == 0, f'expected a tensor of shape (), got {value!r}')
    hold(value.requires_grad, 'the loss does not depend on the student')


def _reference(case: Case) -> None:
    reference: Any = case.reference
    for seed in range(3):
        student, teacher, extra = drawn(case, seed)
        value = float(value_of(case, student, teacher, extra))
        named = {name: arrays(item) for name, item in extra.items()}
        expected = float(reference(arrays(student), arrays(teacher), **named))
        hold_close(value, expected, 1e-6, f'the loss is {value!r}, its reference {expected!r} (inputs {seed})')


def _zero(case: Case) -> None:
    for seed in range(3):
        student, teacher, extra = drawn(case, seed)
        apart = float(value_of(case, student, teacher, extra))
        hold(apart >= 0, f'the loss is {apart!r}, below 0')
        equal = float(value_of(case, teacher, teacher, extra))
        hold(
            abs(equal) <= 1e-6 * max(1.0, apart),
            f'the loss of a student that equals its teacher is {equal!r}, not 0',
        )


def _minimum(case: Case) -> None:
    _, teacher, extra = drawn(case)
    student = leaves(teacher)
    value = value_of(case, student, teacher, extra)
    steep = steepest(value, student)
    hold(steep <= 1e-6, f'the gradient at a student that equals its teacher is {steep!r}, not 0')
    for seed, size in enumerate((1e-3, 1e-1, 10.0)):
        generator = torch.Generator().manual_seed(seed)
        moved = each(teacher, lambda x: x + size * torch.randn(x.shape, generator=generator, dtype=x.dtype))  # noqa: B023
        away = float(value_of(case, moved, teacher, extra))
        hold(away >= float(value) - 1e-9, f'the loss is {float(value)!r} at equality, but {away!r} near by')


def _teacher(case: Case) -> None:
    student, teacher, extra = drawn(case)
    student, teacher = leaves(student), leaves(teacher)
    most = steepest(value_of(case, student, teacher, extra), teacher)
    hold(most == 0, f'the gradient of the teacher is up to {most!r}; use teacher.detach()')


def _repeated(case: Case) -> None:
    student, teacher, extra = drawn(case)
    once = float(value_of(case, student, teacher, extra))
    again = float(value_of(case, each(student, twice), each(teacher, twice), each(extra, twice)))
    hold_close(again, once, 1e-6, f'the loss is {once!r}, but {again!r} for the batch repeated twice')


def _extremes(case: Case) -> None:
    student, teacher, extra = drawn(case)
    for dtype in (torch.float32, torch.bfloat16):
        for sign in (1, -1):
            hold_finite(
                case,
                each(student, lambda x: (x * case.extreme).to(dtype)),  # noqa: B023
                each(teacher, lambda x: (x * case.extreme * sign).to(dtype)),  # noqa: B023
                extra,
                f'inputs times {case.extreme:g} in {dtype}',
            )


def _degenerate(case: Case) -> None:
    student, teacher, extra = (each(part, to_float32) for part in drawn(case))
    ordinary = steepest(value_of(case, clean := leaves(student), teacher, extra), clean)
    same = each(student, lambda x: x[:1].expand_as(x).clone())
    for what, one, other in (
        ('zeros', each(student, torch.zeros_like), each(teacher, torch.zeros_like)),
        ('a student of zeros', each(student, torch.zeros_like), teacher),
        ('a teacher of zeros', student, each(teacher, torch.zeros_like)),
        ('a constant student', each(student, torch.ones_like), teacher),
        ('a constant teacher', student, each(teacher, torch.ones_like)),
        ('a student that answers the same for each sample', same, teacher),
        ('both answering the same for each sample', same, each(teacher, lambda x: x[:1].expand_as(x).clone())),
    ):
        steep = steepest(hold_finite(case, one := leaves(one), other, extra, what), one)
        hold(
            steep <= case.steep * max(ordinary, 1e-6),  # 1e12 is finite, but ruins a training run
            f'the gradient is up to {steep:.3g} for {what}, where an ordinary one is up to {ordinary:.3g}',
        )


def _half(case: Case) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        student, teacher, extra = drawn(case)
        student, teacher = (each(side, lambda x: x.to(dtype)) for side in (student, teacher))  # noqa: B023
        value = float(hold_finite(case, student, teacher, extra, str(dtype)))
        exact = float(value_of(case, each(student, to_float32), each(teacher, to_float32), extra))
        hold(
            math.isclose(value, exact, rel_tol=0.05, abs_tol=0.01),
            f'the loss is {value!r} for inputs in {dtype}, but {exact!r} for the same numbers in float32',
        )


def _gradcheck(case: Case) -> None:
    student, teacher, extra = drawn(case)
    student = leaves(student)
    single = isinstance(student, Tensor)

    def function(*leaves: Tensor) -> Tensor:
        return value_of(case, leaves[0] if single else list(leaves), teacher, extra)

    try:
        torch.autograd.gradcheck(function, (student,) if single else tuple(student))
    except RuntimeError as error:
        raise AssertionError(f'the gradient is not that of finite differences: {error}') from error


def _masked(case: Case) -> None:
    student, teacher, extra = drawn(case)
    mask = extra['mask']
    hold(bool(mask.any() and not mask.all()), 'the inputs must mask some positions, not all')
    clean = leaves(student)
    value = value_of(case, clean, teacher, extra)
    generator = torch.Generator().manual_seed(99)

    def soiled(x: Tensor) -> Tensor:
        garbage = 1e3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return torch.where(counts(mask, x), x, garbage)

    dirty = leaves(each(student, soiled))
    other = value_of(case, dirty, each(teacher, soiled), extra)
    hold_close(float(other), float(value), 1e-9, f'{float(value)!r} becomes {float(other)!r} by garbage there')
    for x, before, after in zip(as_list(clean), gradients(value, clean), gradients(other, dirty)):
        inside = counts(mask, x).expand_as(x)
        hold(not (before[~inside].any() or after[~inside].any()), 'a masked position has a gradient')
        hold(torch.allclose(before, after, rtol=1e-7), 'the gradient elsewhere changes by garbage there')


LAWS: dict[str, Callable[[Case], None]] = {
    'scalar of the student': _scalar,
    'reference': _reference,
    'zero at equality': _zero,
    'minimum at equality': _minimum,
    'no gradient to the teacher': _teacher,
    'same for a repeated batch': _repeated,
    'finite at extremes': _extremes,
    'finite for degenerate inputs': _degenerate,
    'half precision': _half,
    'gradcheck': _gradcheck,
    'masked positions never count': _masked,
}
"""The laws by name: functions of a :class:`Case` that raise ``AssertionError``."""
