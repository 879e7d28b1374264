"""Property tests ("laws") for distillation losses: for those of this package and for your own."""

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
    classes: bool = False,
    empty: bool = False,
) -> None:
    """Checks that a loss of your own has the properties (laws) of the losses of this package.

    Each call of the loss starts from the same random state. An ``nn.Module`` is copied before each call (and built, if
    it has a method ``build``), so that losses that sample or have state can be checked and stay unchanged.

    Args:
        loss: Any ``(student, teacher, **extra) -> scalar``.
        inputs: A function from a seed to student and teacher in float64 (tensors, or lists of tensors) and, if the loss
            takes more, a dict of keyword arguments (labels, mask, index). Logits ``(6, 5)`` if ``None``.
        reference: An independent implementation of the loss, called with the same arguments as numpy arrays.
        zero_at_equality: Whether the loss is a divergence: 0 where the student equals the teacher, and never negative.
        minimum_at_equality: Whether the loss has its minimum, with gradient 0, where the student equals the teacher.
        repeats: Whether the loss stays the same if the batch is repeated twice, as a mean does and a sum does not.
        gradcheck: Whether the loss is smooth at the inputs, so that its gradient is compared with finite differences;
            so is its second derivative, unless the loss refuses it by a ``RuntimeError``.
        extreme: The factor by which the inputs are multiplied to check that value and gradient stay finite.
        steep: The largest allowed gradient for degenerate inputs (zeros, constants, equal samples), as a multiple of
            the gradient for ordinary inputs.
        classes: Whether the inputs are logits with the classes in the last dimension, so that a class of logit
            ``torch.finfo(dtype).min`` or minus infinity is checked to count like one of -1e30, which is excluded.
        empty: Whether a batch of no samples is checked to give 0 or a ``ValueError``.

    Raises:
        AssertionError: If a law is broken; the message gives the law and the numbers.

    Example:
        >>> def centred(student, teacher):
        ...     return (student - student.mean(-1, keepdim=True) - teacher.detach()).square().mean()
        >>> check_loss(centred)
        Traceback (most recent call last):
        AssertionError: zero at equality: the loss of a student that equals its teacher is 0.184..., not 0
        >>> check_loss(lambda student, teacher: (student - teacher.detach()).square().mean())
    """
    case = Case(
        loss,
        inputs or logits,
        reference,
        zero_at_equality,
        minimum_at_equality,
        repeats,
        gradcheck,
        extreme,
        steep,
        classes,
        empty,
    )
    for name, law in laws_of(case).items():
        try:
            law(case)
        except AssertionError as error:
            raise AssertionError(f'{name}: {error}') from error
