"""State dicts of the student without the auxiliary modules (projectors, learned losses) that were trained with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

__all__ = ['EXTRAS', 'student_state_dict', 'without_extras']

EXTRAS = 'composer_kd'
"""Name of the student's submodule that holds projectors and learned losses during distillation."""

Value = TypeVar('Value')


def student_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights of a student without the projectors and learned losses that were trained with it.

    Args:
        model: The model of a run, distilled or not.

    Returns:
        The entries of its ``state_dict`` that the same model has without distillation.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> model.add_module(EXTRAS, nn.Linear(3, 4))
        >>> sorted(model.state_dict()), sorted(student_state_dict(model))
        (['bias', 'composer_kd.bias', 'composer_kd.weight', 'weight'], ['bias', 'weight'])
    """
    return without_extras(model.state_dict())


def without_extras(weights: Mapping[str, Value]) -> dict[str, Value]:
    """Returns the entries of a state dict that belong to the student itself, also if the student was wrapped.

    Args:
        weights: A state dict; its keys may have prefixes of wrappers.

    Returns:
        The entries whose key does not contain ``EXTRAS``.
    """
    return {key: value for key, value in weights.items() if EXTRAS not in key.split('.')}
