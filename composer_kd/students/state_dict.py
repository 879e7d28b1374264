"""The student alone, without what was trained beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

__all__ = ['EXTRAS', 'student_state_dict', 'without_extras']

EXTRAS = 'composer_kd'
"""The submodule of a student in which projectors and learned losses live while it is distilled."""

Value = TypeVar('Value')


def student_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a student without the projectors and learned losses that were trained beside it.

    Args:
        model: The model of a run, distilled or not.

    Returns:
        Its ``state_dict`` without them: what the same model has that was never distilled.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> model.add_module(EXTRAS, nn.Linear(3, 4))
        >>> sorted(model.state_dict()), sorted(student_state_dict(model))
        (['bias', 'composer_kd.bias', 'composer_kd.weight', 'weight'], ['bias', 'weight'])
    """
    return without_extras(model.state_dict())


def without_extras(weights: Mapping[str, Value]) -> dict[str, Value]:
    """The entries of a state dict that belong to the student itself, whatever wrapped it."""
    return {key: value for key, value in weights.items() if EXTRAS not in key.split('.')}
