"""Reads the outputs of a model: its logits, its loss, and the features of its layers."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from composer_kd.errors import TeacherError

__all__ = ['BY_FORWARD', 'BY_MATCH', 'Observation', 'logits_of', 'output_of', 'scalar_loss']

BY_MATCH = "Name it in the match: Match(loss, on='{place}')"
"""How an output of a student is named."""

BY_FORWARD = (
    'Return it from a function: FrozenTeacher(model, forward=lambda model, batch: ...); or name it in the match, after '
    "the student's: Match(loss, on=(..., '{place}'))"
)
"""How an output of a teacher is named."""


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


def logits_of(outputs: Any, whose: str, remedy: str = BY_MATCH) -> Tensor:
    """Finds the logits in a model's outputs.

    Args:
        outputs: A tensor; an object or mapping with ``logits``; or a sequence or mapping of several things, of which
            exactly one is a tensor of two or more dimensions. Of a sequence with several such tensors the first is
            taken, with a warning that says so. Hidden states under the names of transformers (``last_hidden_state``)
            are never taken: their last dimension holds no classes.
        whose: The model's name, for messages.
        remedy: How to name another output, for messages: :data:`BY_MATCH`, :data:`BY_FORWARD`.

    Returns:
        The logits, unchanged.

    Raises:
        TeacherError: If the outputs contain no logits, or it cannot be known which they are.

    Example:
        >>> import torch
        >>> logits_of({'loss': torch.tensor(0.0), 'logits': torch.ones(2, 3)}, 'the student').shape
        torch.Size([2, 3])
        >>> logits_of({'out': torch.ones(2, 3), 'aux': torch.ones(2, 3)}, 'the student')
        Traceback (most recent call last):
        ...
        composer_kd.errors.TeacherError: No logits in the output of the student: expected a tensor, or something with \
`logits`, got dict with the keys ['aux', 'out']; which is meant of outputs.out (B, 3), outputs.aux (B, 3)? Name it in \
the match: Match(loss, on='outputs.out').
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = _said(outputs)
    if logits is not None:
        return logits
    states = _direct(outputs)
    if states and all(map(_is_state, states)):
        listed = ', '.join(f'{place} {_shape(value)}' for place, value in states.items())
        raise TeacherError(
            f'No logits in the output of {whose}: {listed} holds hidden states, as of an encoder without a head. To '
            f'compare them: {remedy.format(place=next(iter(states)))}.'
        )
    return output_of(outputs, whose, remedy)


def output_of(outputs: Any, whose: str, remedy: str = BY_MATCH) -> Tensor:
    """Finds what a model answers in its outputs: as :func:`logits_of`, or the hidden states of an encoder.

    Example:
        >>> output_of({'last_hidden_state': torch.ones(2, 3, 4)}, 'the model').shape
        torch.Size([2, 3, 4])
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = _said(outputs)
    if logits is not None:
        return logits
    found = _direct(outputs)
    if len(found) == 1:
        return next(iter(found.values()))
    if not found or not isinstance(outputs, Sequence):
        raise _unknown(outputs, found or _nested(outputs), whose, remedy)
    listed = ', '.join(f'{place} {_shape(value)}' for place, value in found.items())
    first, second, *_ = found
    if not torch.compiler.is_compiling():
        warnings.warn(
            f'The output of {whose} has several tensors, {listed}: the first is taken for the logits. '
            f'{remedy.format(place=second)}.',
            stacklevel=3,
        )
    return found[first]


def _said(outputs: Any) -> Tensor | None:
    """What the outputs call logits; ``None`` if they have none."""
    logits = outputs.get('logits') if isinstance(outputs, Mapping) else getattr(outputs, 'logits', None)
    return logits if isinstance(logits, Tensor) else None


def _unknown(outputs: Any, found: Mapping[str, Tensor], whose: str, remedy: str) -> TeacherError:
    """The error for outputs of which it cannot be known which are the logits."""
    keys = f' with the keys {sorted(map(str, outputs))}' if isinstance(outputs, Mapping) else ''
    listed = ', '.join(f'{place} {_shape(value)}' for place, value in found.items())
    which = (
        f'; which is meant of {listed}? {remedy.format(place=next(iter(found)))}.'
        if found
        else ", and no tensor of two dimensions or more in it. Compare layers: Match(loss, on='...')."
    )
    return TeacherError(
        f'No logits in the output of {whose}: expected a tensor, or something with `logits`, got '
        f'{type(outputs).__name__}{keys}{which}'
    )


def _entries(outputs: Any, place: str = 'outputs') -> list[tuple[str, Any]]:
    """What a mapping, sequence or dataclass holds, by its paths as a match takes them."""
    if isinstance(outputs, Mapping):
        dotted = '[' not in place
        return [
            (f'{place}.{key}' if dotted and str(key).isidentifier() else f'{place}[{key!r}]', outputs[key])
            for key in outputs
        ]
    if isinstance(outputs, Sequence) and not isinstance(outputs, str):
        return [(f'{place}[{number}]', value) for number, value in enumerate(outputs)]
    if dataclasses.is_dataclass(outputs):
        return _entries(vars(outputs), place)
    return []


def _direct(outputs: Any) -> dict[str, Tensor]:
    """The tensors of two or more dimensions that the outputs themselves hold, by their paths."""
    return {place: value for place, value in _entries(outputs) if isinstance(value, Tensor) and value.ndim >= 2}


def _nested(outputs: Any, place: str = 'outputs') -> dict[str, Tensor]:
    """The tensors of two or more dimensions at any depth, by their paths."""
    if isinstance(outputs, Tensor):
        return {place: outputs} if outputs.ndim >= 2 else {}
    return {path: found for where, value in _entries(outputs, place) for path, found in _nested(value, where).items()}


def _is_state(place: str) -> bool:
    """Whether the name of an output says that it holds hidden states, as an encoder without a head returns them."""
    return any(name in place for name in _STATES)


_STATES = ('hidden_state', 'pooler_output')


def _shape(value: Tensor) -> str:
    """A shape without the sizes that change from batch to batch, so that a warning is given once."""
    return f'(B, {"..., " * (value.ndim > 2)}{value.shape[-1]})'


def scalar_loss(loss: Any) -> Tensor:
    """Reduces a model's own loss to the scalar that Composer would backpropagate.

    Args:
        loss: A tensor or a number; a mapping, of which ``total`` is taken, else the sum of all entries; or a sequence,
            of which the sum is taken. Tensors that are not scalars are averaged, as Composer does.

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
    if isinstance(loss, (int, float)):  # a model without a loss of its own may return 0.0
        return torch.tensor(float(loss))
    if isinstance(loss, Mapping):
        loss = [loss['total']] if 'total' in loss else list(loss.values())
    first, *others = (part.mean() for part in loss)
    return sum(others, start=first)
