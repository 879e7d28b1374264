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
    second_along,
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
        'second derivative': case.gradcheck,
        'empty batch': case.empty,
        'excluded classes': case.classes,
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


def _second(case: Case) -> None:
    student, teacher, extra = drawn(case)
    student = leaves(student)
    generator = torch.Generator().manual_seed(7)
    along = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in as_list(student)]
    try:
        found = second_along(value_of(case, student, teacher, extra), student, along)
    except RuntimeError:
        return  # refused
    step = 1e-5

    def slopes(sign: int) -> list[Tensor]:
        moved = [(x.detach() + sign * step * way).requires_grad_() for x, way in zip(as_list(student), along)]
        inputs = moved[0] if isinstance(student, Tensor) else moved
        return gradients(value_of(case, inputs, teacher, extra), inputs)

    for one, after, before in zip(found, slopes(1), slopes(-1)):
        expected = (after - before) / (2 * step)
        size = float(expected.abs().max())
        hold(
            torch.allclose(one, expected, rtol=1e-4, atol=1e-4 * size + 1e-8),
            f'the second derivative is off by up to {float((one - expected).abs().max()):.3g}, where it is up to '
            f'{size:.3g}; raise a RuntimeError if the loss has none',
        )


def _empty(case: Case) -> None:
    student, teacher, extra = (each(part, lambda x: x[:0]) for part in drawn(case))
    student = leaves(student)
    try:
        value = value_of(case, student, teacher, extra)
    except ValueError:
        return  # refused
    except ZeroDivisionError as error:
        raise AssertionError('an empty batch ends in a ZeroDivisionError, neither 0 nor a ValueError') from error
    hold(float(value) == 0, f'the loss of an empty batch is {float(value)!r}, neither 0 nor a ValueError')
    hold(value.requires_grad, 'the loss of an empty batch does not depend on the student')


def _excluded(case: Case) -> None:
    student, teacher, extra = (each(part, to_float32) for part in drawn(case))

    def of(logit: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        one, other = (x.to(dtype).clone() for x in (student, teacher))
        one[..., -1] = other[..., -1] = logit
        one.requires_grad_()
        value = hold_finite(case, one, other, extra, f'a class of logit {logit!r} in {dtype}')
        return value.double(), gradients(value, one)[0].double()

    for dtype in (torch.float32, torch.bfloat16):
        expected, expected_grad = of(-1e30, dtype)
        for logit in (torch.finfo(dtype).min, -math.inf):
            value, grad = of(logit, dtype)
            hold_close(float(value), float(expected), 1e-6, f'the loss is {float(value)!r} for a class of {logit!r}')
            hold(
                torch.allclose(grad, expected_grad, rtol=1e-5, atol=1e-7), f'another gradient for a class of {logit!r}'
            )


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
    'second derivative': _second,
    'empty batch': _empty,
    'excluded classes': _excluded,
}
"""The laws by name: functions of a :class:`Case` that raise ``AssertionError``."""
