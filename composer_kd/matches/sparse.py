"""Compares a student with a sparse target of a teacher: its most probable classes, or draws."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from composer_kd.errors import LossError
from composer_kd.losses.sparse import SampledLogits, SparseLogits, SparseTarget, coarse, drawn_log_probs
from composer_kd.matches.loss_signature import attribute_of

__all__ = ['against', 'temperature_of']

_WAYS_OUT = (
    'Store the format dense, or take one of KLDivergence, ReverseKL, SoftCrossEntropy, GeneralizedJSD, SkewedKL, '
    'SkewedReverseKL, TotalVariation'
)


def against(
    loss: Any,
    name: str,
    temperature: float | None,
    student: Tensor,
    target: SparseTarget,
    call: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Computes a loss between the student and a sparse target.

    Args:
        loss: The loss, for what it says of itself.
        name: Its name in messages.
        temperature: The temperature at which it is called; ``None`` if it has none.
        student: ``(..., V)`` The student's logits, of N positions together.
        target: The teacher's distribution at these N positions, ``(N, ...)``.
        call: Calls the loss.

    Returns:
        The loss, a scalar.

    Raises:
        LossError: If the loss cannot be taken of a part of the classes, or has another temperature than the target.
    """
    if isinstance(target, SparseLogits) and target.is_complete:
        return call(student.flatten(0, -2), target.dense())
    if temperature is None or not math.isclose(temperature, target.temperature, rel_tol=1e-6):
        has = 'no temperature' if temperature is None else f'the temperature {temperature:g}'
        raise LossError(
            f'The loss {name!r} has {has}, and the stored teacher kept the most probable of the classes, or draws, at '
            f'the temperature {target.temperature:g}: what they would be at another one cannot be known. Give the loss '
            f'temperature={target.temperature:g}, store the teacher at that of the loss, or store the format dense.'
        )
    if isinstance(target, SampledLogits):
        from_draws = _of_itself(loss, 'from_draws')
        if from_draws is None:
            raise LossError(
                f'The loss {name!r} is no expectation over the classes of the teacher, so draws from them do not '
                'give it. Take KLDivergence or SoftCrossEntropy, or store the format topk or dense.'
            )
        return from_draws(drawn_log_probs(student.flatten(0, -2), target), target.entropy, target.temperature)
    assert isinstance(target, SparseLogits)
    if not _of_itself(loss, 'joins_classes'):
        raise LossError(
            f'The loss {name!r} needs the logits of all {target.classes} classes, and the stored teacher kept '
            f'{target.ids.shape[-1]} of them. {_WAYS_OUT}.'
        )
    return call(*coarse(student, target))


def _of_itself(loss: Any, name: str) -> Any:
    """What a loss, or the function of a ``partial``, says of itself.

    A loss that wraps another does more than that, and so does a subclass with a ``forward`` of its own: what the other
    says does not hold for them.
    """
    loss = getattr(loss, 'func', loss)
    loss = getattr(loss, '_orig_mod', loss)  # compiled
    for kind in type(loss).__mro__:
        if name in vars(kind):
            return getattr(loss, name)
        if 'forward' in vars(kind):
            return None
    return getattr(loss, name, None)


def temperature_of(loss: Any) -> float | None:
    """The temperature that a loss has by itself; ``None`` if it has none.

    Example:
        >>> from functools import partial
        >>> from composer_kd.losses import KLDivergence, kl_divergence
        >>> [temperature_of(loss) for loss in (KLDivergence(2.0), kl_divergence, partial(kl_divergence, temperature=3))]
        [2.0, 4.0, 3.0]
    """
    found = attribute_of(loss, 'temperature', None)
    if found is None and inspect.isfunction(getattr(loss, 'func', loss)):
        parameter = inspect.signature(loss).parameters.get('temperature')
        found = None if parameter is None or parameter.default is parameter.empty else parameter.default
    return None if found is None else float(found)
