"""The laws of a distillation loss, for tests: those of this package and those of your own losses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ['LAWS', 'Case', 'check_loss', 'laws_of', 'logits']


def logits(seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Student and teacher logits ``(6, 5)`` in float64, nothing else."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, {}


@dataclass(frozen=True)
class Case:
    """A loss and what holds for it; the fields are the arguments of :func:`check_loss`."""

    loss: Callable[..., Any]
    inputs: Callable[[int], tuple[Any, ...]] = logits
    reference: Callable[..., float] | None = None
    zero_at_equality: bool = True
    minimum_at_equality: bool = True
    repeats: bool = True
    gradcheck: bool = True
    extreme: float = 1e4


def check_loss(
    loss: Callable[..., Any],
    inputs: Callable[[int], tuple[Any, ...]] | None = None,
    reference: Callable[..., float] | None = None,
    *,
    zero_at_equality: bool = True,
    minimum_at_equality: bool = True,
    repeats: bool = True,
    gradcheck: bool = True,
    extreme: float = 1e4,
) -> None:
    """Holds a loss of your own to the laws that the losses of this package obey.

    Every call of the loss starts from the same random state, and an ``nn.Module`` is copied for it (and built, if it
    has a method ``build``), so a loss that samples or remembers can be checked too, and is left as it was.

    Args:
        loss: Any ``(student, teacher, **extra) -> scalar``.
        inputs: From a seed to float64 student and teacher (tensors, or lists of them) and, if the loss takes more, a
            dict of keyword arguments (labels, mask, index). Logits ``(6, 5)`` if ``None``.
        reference: The same loss computed another way, from the same arguments as numpy arrays.
        zero_at_equality: It is a divergence: 0 where the student equals the teacher, never negative.
        minimum_at_equality: It is least, and flat, where the student equals the teacher.
        repeats: It is the same for a batch repeated twice, as a mean is and a sum is not.
        gradcheck: It is smooth at the inputs, so that its gradient can be compared with finite differences.
        extreme: The factor on the inputs at which value and gradient must be finite.

    Raises:
        AssertionError: If a law is broken; it names the law and the numbers.

    Example:
        >>> def centred(student, teacher):
        ...     return (student - student.mean(-1, keepdim=True) - teacher.detach()).square().mean()
        >>> check_loss(centred)
        Traceback (most recent call last):
        AssertionError: zero at equality: the loss of a student that equals its teacher is 0.184..., not 0
        >>> check_loss(lambda student, teacher: (student - teacher.detach()).square().mean())
    """
    case = Case(loss, inputs or logits, reference, zero_at_equality, minimum_at_equality, repeats, gradcheck, extreme)
    for name, law in laws_of(case).items():
        try:
            law(case)
        except AssertionError as error:
            raise AssertionError(f'{name}: {error}') from error


def laws_of(case: Case) -> dict[str, Callable[[Case], None]]:
    """The laws that a case says it obeys."""
    obeyed = {
        'reference': case.reference is not None,
        'zero at equality': case.zero_at_equality,
        'minimum at equality': case.minimum_at_equality,
        'same for a repeated batch': case.repeats,
        'gradcheck': case.gradcheck,
        'masked positions never count': _drawn(case)[2].get('mask') is not None,
    }
    return {name: law for name, law in LAWS.items() if obeyed.get(name, True)}


def _scalar(case: Case) -> None:
    student, teacher, extra = _drawn(case)
    value = _value(case, _leaves(student), teacher, extra)
    _hold(isinstance(value, Tensor) and value.ndim == 0, f'expected a tensor of shape (), got {value!r}')
    _hold(value.requires_grad, 'the loss does not depend on the student')


def _reference(case: Case) -> None:
    reference: Any = case.reference
    for seed in range(3):
        student, teacher, extra = _drawn(case, seed)
        value = float(_value(case, student, teacher, extra))
        named = {name: _arrays(item) for name, item in extra.items()}
        expected = float(reference(_arrays(student), _arrays(teacher), **named))
        _hold_close(value, expected, 1e-6, f'the loss is {value!r}, its reference {expected!r} (inputs {seed})')


def _zero(case: Case) -> None:
    for seed in range(3):
        student, teacher, extra = _drawn(case, seed)
        apart = float(_value(case, student, teacher, extra))
        _hold(apart >= 0, f'the loss is {apart!r}, below 0')
        equal = float(_value(case, teacher, teacher, extra))
        _hold(
            abs(equal) <= 1e-6 * max(1.0, apart),
            f'the loss of a student that equals its teacher is {equal!r}, not 0',
        )


def _minimum(case: Case) -> None:
    _, teacher, extra = _drawn(case)
    student = _leaves(teacher)
    value = _value(case, student, teacher, extra)
    steepest = max(float(grad.abs().max()) for grad in _gradients(value, student))
    _hold(steepest <= 1e-6, f'the gradient at a student that equals its teacher is {steepest!r}, not 0')
    for seed, size in enumerate((1e-3, 1e-1, 10.0)):
        generator = torch.Generator().manual_seed(seed)
        moved = _each(teacher, lambda x: x + size * torch.randn(x.shape, generator=generator, dtype=x.dtype))  # noqa: B023
        away = float(_value(case, moved, teacher, extra))
        _hold(away >= float(value) - 1e-9, f'the loss is {float(value)!r} at equality, but {away!r} near by')


def _teacher(case: Case) -> None:
    student, teacher, extra = _drawn(case)
    student, teacher = _leaves(student), _leaves(teacher)
    value = _value(case, student, teacher, extra)
    most = max(float(grad.abs().max()) for grad in _gradients(value, teacher))
    _hold(most == 0, f'the gradient of the teacher is up to {most!r}; use teacher.detach()')


def _repeated(case: Case) -> None:
    student, teacher, extra = _drawn(case)
    once = float(_value(case, student, teacher, extra))
    student, teacher = _each(student, _twice), _each(teacher, _twice)
    twice = float(_value(case, student, teacher, {name: _each(value, _twice) for name, value in extra.items()}))
    _hold_close(twice, once, 1e-6, f'the loss is {once!r}, but {twice!r} for the batch repeated twice')


def _extremes(case: Case) -> None:
    student, teacher, extra = _drawn(case)
    for dtype in (torch.float32, torch.bfloat16):
        for sign in (1, -1):
            _hold_finite(
                case,
                _each(student, lambda x: (x * case.extreme).to(dtype)),  # noqa: B023
                _each(teacher, lambda x: (x * case.extreme * sign).to(dtype)),  # noqa: B023
                extra,
                f'inputs times {case.extreme:g} in {dtype}',
            )


def _degenerate(case: Case) -> None:
    student, teacher, extra = (_each(part, _to_float32) for part in _drawn(case))
    same = _each(student, lambda x: x[:1].expand_as(x).clone())
    for what, one, other in (
        ('zeros', _each(student, torch.zeros_like), _each(teacher, torch.zeros_like)),
        ('a student of zeros', _each(student, torch.zeros_like), teacher),
        ('a teacher of zeros', student, _each(teacher, torch.zeros_like)),
        ('a constant student', _each(student, torch.ones_like), teacher),
        ('a constant teacher', student, _each(teacher, torch.ones_like)),
        ('a student that answers the same for each sample', same, teacher),
        ('both answering the same for each sample', same, _each(teacher, lambda x: x[:1].expand_as(x).clone())),
    ):
        _hold_finite(case, one, other, extra, what)


def _half(case: Case) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        student, teacher, extra = _drawn(case)
        student, teacher = (_each(side, lambda x: x.to(dtype)) for side in (student, teacher))  # noqa: B023
        value = float(_hold_finite(case, student, teacher, extra, str(dtype)))
        exact = float(_value(case, _each(student, _to_float32), _each(teacher, _to_float32), extra))
        _hold(
            math.isclose(value, exact, rel_tol=0.05, abs_tol=0.01),
            f'the loss is {value!r} for inputs in {dtype}, but {exact!r} for the same numbers in float32',
        )


def _gradcheck(case: Case) -> None:
    student, teacher, extra = _drawn(case)
    student = _leaves(student)
    single = isinstance(student, Tensor)

    def function(*leaves: Tensor) -> Tensor:
        return _value(case, leaves[0] if single else list(leaves), teacher, extra)

    try:
        torch.autograd.gradcheck(function, (student,) if single else tuple(student))
    except RuntimeError as error:
        raise AssertionError(f'the gradient is not that of finite differences: {error}') from error


def _masked(case: Case) -> None:
    student, teacher, extra = _drawn(case)
    mask = extra['mask']
    _hold(bool(mask.any() and not mask.all()), 'the inputs must mask some positions, not all')
    clean = _leaves(student)
    value = _value(case, clean, teacher, extra)
    generator = torch.Generator().manual_seed(99)

    def soiled(x: Tensor) -> Tensor:
        garbage = 1e3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return torch.where(_counts(mask, x), x, garbage)

    dirty = _leaves(_each(student, soiled))
    other = _value(case, dirty, _each(teacher, soiled), extra)
    _hold_close(float(other), float(value), 1e-9, f'{float(value)!r} becomes {float(other)!r} by garbage there')
    for x, before, after in zip(_list(clean), _gradients(value, clean), _gradients(other, dirty)):
        inside = _counts(mask, x).expand_as(x)
        _hold(not (before[~inside].any() or after[~inside].any()), 'a masked position has a gradient')
        _hold(torch.allclose(before, after, rtol=1e-7), 'the gradient elsewhere changes by garbage there')


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
"""Each law by its name: a function of a :class:`Case` that raises ``AssertionError``."""


def _drawn(case: Case, seed: int = 0) -> tuple[Any, Any, dict[str, Any]]:
    student, teacher, *extra = case.inputs(seed)
    return student, teacher, dict(*extra)


def _value(case: Case, student: Any, teacher: Any, extra: dict[str, Any]) -> Tensor:
    """One call of the loss, from the same state each time, in the precision of its inputs (float32 at least)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss: Any = case.loss
        if isinstance(loss, nn.Module):
            loss = copy.deepcopy(loss)
            if hasattr(loss, 'build'):
                loss.build(_each(student, lambda x: x.shape), _each(teacher, lambda x: x.shape))
            loss.to(torch.promote_types(_list(student)[0].dtype, torch.float32))
        return loss(student, teacher, **extra)


def _hold_finite(case: Case, student: Any, teacher: Any, extra: dict[str, Any], what: str) -> Tensor:
    student = _leaves(student)
    value = _value(case, student, teacher, extra)
    _hold(value.isfinite(), f'the loss is {float(value)!r} for {what}')
    for grad in _gradients(value, student):
        _hold(grad.isfinite().all(), f'the loss is {float(value)!r}, but its gradient is not finite for {what}')
    return value


def _hold(holds: bool | Tensor, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _hold_close(value: float, expected: float, tolerance: float, message: str) -> None:
    _hold(math.isclose(value, expected, rel_tol=tolerance, abs_tol=1e-12), message)


def _gradients(value: Tensor, inputs: Any) -> list[Tensor]:
    grads = torch.autograd.grad(value, _list(inputs), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if grad is None else grad for x, grad in zip(_list(inputs), grads)]


def _counts(mask: Tensor, x: Tensor) -> Tensor:
    """The mask, flat or not, in a shape that broadcasts over ``x``: over its leading dimensions, or over both ends of
    attention maps ``(B, H, S, S)``."""
    if x.ndim == 4 and mask.ndim == 2 and x.shape[1] != mask.shape[1] and x.shape[2] == x.shape[3] == mask.shape[1]:
        return mask[:, None, :, None] & mask[:, None, None, :]
    for dims in range(1, x.ndim + 1):
        if math.prod(x.shape[:dims]) == mask.numel():
            return mask.reshape(x.shape[:dims] + (1,) * (x.ndim - dims))
    raise ValueError(f'a mask {tuple(mask.shape)} does not fit inputs {tuple(x.shape)}')


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _each(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Applies a function to a tensor, or to each in a list or dict; other values stay as they are."""
    if isinstance(value, dict):
        return {name: _each(item, function) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each(item, function) for item in value]
    return function(value) if isinstance(value, Tensor) else value


def _leaves(value: Any) -> Any:
    return _each(value, lambda x: x.detach().clone().requires_grad_())


def _to_float32(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])


def _arrays(value: Any) -> Any:
    return _each(value, lambda x: x.detach().numpy())
