"""What each loss is held to: one entry per name of ``composer_kd.losses.__all__``, grouped by kind of knowledge.

A loss of your own gets the same treatment by one line in ``CASES``: ``'my_loss': Case(my_loss)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


def logits(seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Student and teacher logits (6, 5) in float64, nothing else."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, {}


@dataclass(frozen=True)
class Case:
    """A loss and what holds for it.

    Args:
        loss: ``(student, teacher, **extra) -> scalar``.
        inputs: From a seed to float64 student and teacher (tensors or lists of tensors) and extra keyword arguments
            (labels, mask, index).
        reference: The same, computed another way (loops, numpy, scipy) from the same arguments as numpy float64 arrays;
            returns a float. None only for twins, whose function has one.
        zero_at_equality: A divergence: 0 where the student is the teacher, never negative.
        minimum_at_equality: The gradient vanishes where the student is the teacher. Needs same shapes.
        repeats: The value is the same for the batch repeated twice.
        gradcheck: Whether it is smooth at the inputs.
        extreme: Factor on the inputs at which it must stay finite.
    """

    loss: Callable[..., Any]
    inputs: Callable[[int], tuple[Any, Any, dict[str, Any]]] = logits
    reference: Callable[..., float] | None = None
    zero_at_equality: bool = True
    minimum_at_equality: bool = True
    repeats: bool = True
    gradcheck: bool = True
    extreme: float = 1e4
