"""Reads the outputs of a model: its logits, its loss, and the features of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from composer_kd.errors import TeacherError

__all__ = ['Observation', 'logits_of', 'scalar_loss']


@dataclass(frozen=True)
class Observation:
    """The logits and features of one model on one batch.

    Attributes:
        logits: The logits, in the shape in which the model returns them; ``None`` if there are none.
        features: The features by layer path, in the shapes in which the layers return them.

    Example:
        >>> import torch
        >>> Observation(torch.zeros(4, 3), {'layer2': torch.zeros(4, 8)}).features['layer2'].shape
        torch.Size([4, 8])
    """

    logits: Tensor | None
    features: dict[str, Tensor]


def logits_of(outputs: Any, whose: str) -> Tensor:
    """Finds the logits in a model's outputs.

    Args:
        outputs: A tensor; an object or mapping with ``logits``; a mapping with exactly one tensor of two or more
            dimensions; or a tuple, of which the first tensor with two or more dimensions is taken.
        whose: The model's name, for the error.

    Returns:
        The logits, unchanged.

    Raises:
        TeacherError: If the outputs contain no logits.

    Example:
        >>> import torch
        >>> logits_of({'loss': torch.tensor(0.0), 'logits': torch.ones(2, 3)}, 'the student').shape
        torch.Size([2, 3])
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get('logits') if isinstance(outputs, Mapping) else getattr(outputs, 'logits', None)
    if isinstance(logits, Tensor):
        return logits
    found: Any = ()
    if isinstance(outputs, Mapping):
        found = [value for value in outputs.values() if isinstance(value, Tensor) and value.ndim >= 2]
        found = found if len(found) == 1 else ()
    elif isinstance(outputs, Sequence):
        found = [value for value in outputs if isinstance(value, Tensor) and value.ndim >= 2]
    if found:
        return found[0]
    keys = f' with the keys {sorted(map(str, outputs))}' if isinstance(outputs, Mapping) else ''
    raise TeacherError(
        f'No logits in the output of {whose}: expected a tensor, or something with `logits`, got '
        f'{type(outputs).__name__}{keys}. '
        'For a teacher pass FrozenTeacher(model, forward=...) with a function that returns its logits.'
    )


def scalar_loss(loss: Any) -> Tensor:
    """Reduces a model's own loss to the scalar that Composer would backpropagate.

    Args:
        loss: A tensor; a mapping, of which ``total`` is taken, else the sum of all entries; or a sequence, of which the
            sum is taken. Tensors that are not scalars are averaged, as Composer does.

    Returns:
        A scalar tensor.

    Example:
        >>> import torch
        >>> scalar_loss((torch.tensor(1.0), torch.tensor([2.0, 4.0])))
        tensor(4.)
        >>> scalar_loss({'total': torch.tensor(3.0), 'aux': torch.tensor(1.0)})
        tensor(3.)
    """
    if isinstance(loss, Tensor):
        return loss if loss.ndim == 0 else loss.mean()
    if isinstance(loss, Mapping):
        loss = [loss['total']] if 'total' in loss else list(loss.values())
    first, *others = (part.mean() for part in loss)
    return sum(others, start=first)
