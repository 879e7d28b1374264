"""The laws of a distillation loss, for tests: those of this package and those of your own losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from composer_kd.testing.laws import LAWS, laws_of
from composer_kd.testing.tools import Case, logits

__all__ = ['LAWS', 'Case', 'check_loss', 'laws_of', 'logits']


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
    steep: float = 1e3,
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
        steep: How many times an ordinary gradient that for degenerate inputs (zeros, constants, equal samples) may be.

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
    case = Case(
        loss, inputs or logits, reference, zero_at_equality, minimum_at_equality, repeats, gradcheck, extreme, steep
    )
    for name, law in laws_of(case).items():
        try:
            law(case)
        except AssertionError as error:
            raise AssertionError(f'{name}: {error}') from error
