"""How a model is called with a batch; decided once, from what the model is and what the batch looks like."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from composer.models import ComposerModel, HuggingFaceModel
from torch import Tensor, nn

from composer_kd.batches.contents import without_labels
from composer_kd.errors import TeacherError

__all__ = ['as_it_is', 'choose_call', 'with_inputs']


def choose_call(
    model: nn.Module, batch: Any, adapt: Callable[[Any], Any] | None = None, whose: str = 'the model'
) -> Callable[[Any], Any]:
    """How a model takes batches of this kind.

    Args:
        model: The model.
        batch: One batch of the kind.
        adapt: Changes the inputs first.
        whose: The model's name, for the error.

    Returns:
        A function of a batch that returns what the model returns.

    Raises:
        TeacherError: If the model takes nothing that the batch has.

    Example:
        >>> import torch
        >>> batch = {'x': torch.zeros(4, 2), 'labels': torch.zeros(4)}
        >>> choose_call(nn.Linear(2, 3), batch)(batch).shape
        torch.Size([4, 3])
    """
    adapt = adapt or as_it_is
    of_keys = isinstance(model, HuggingFaceModel) and isinstance(batch, Mapping)
    if isinstance(model, ComposerModel) and not of_keys:
        return lambda batch: model(with_inputs(batch, adapt))
    parameters = inspect.signature(_plain_forward(model)).parameters
    if isinstance(batch, Mapping):
        return _choose_keys(batch, model, parameters, adapt, whose)
    if next(iter(parameters), None) == 'batch':
        return lambda batch: model(with_inputs(batch, adapt))
    if isinstance(batch, Sequence):
        return lambda batch: model(adapt(batch[0]))
    return lambda batch: model(adapt(batch))


def _choose_keys(
    batch: Mapping[str, Any], model: nn.Module, parameters: Mapping[str, Any], adapt: Callable[[Any], Any], whose: str
) -> Callable[[Any], Any]:
    """The same for a mapping: by names, as a whole, or its only tensor."""
    module, names = model, set(parameters)
    if isinstance(model, HuggingFaceModel):
        module, names = model.model, set(model.model_forward_args)
    needs_labels = bool(getattr(getattr(model, 'config', None), 'is_encoder_decoder', False))
    keys = set(without_labels(batch))
    # Hugging Face models name all their inputs: their **kwargs are for settings.
    named = hasattr(model, 'config') or isinstance(model, HuggingFaceModel)
    if not named and any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        names |= keys
    if not keys & names:
        if next(iter(parameters), None) == 'batch':
            return lambda batch: model(with_inputs(batch, adapt))
        tensors = [key for key in keys - {'attention_mask', 'index'} if isinstance(batch[key], Tensor)]
        if len(tensors) == 1:
            return lambda batch: module(adapt(without_labels(batch))[tensors[0]])
        raise TeacherError(
            f'{whose} takes {", ".join(parameters) or "nothing"}, of which the batch with the '
            f'keys {sorted(batch)} has none. Say how to call it: '
            'FrozenTeacher(model, forward=lambda model, batch: ...).'
        )
    # A cache of keys and values is of use in generation alone.
    fixed = {'use_cache': False} if 'use_cache' in names and 'use_cache' not in batch else {}
    return lambda batch: module(
        **{key: value for key, value in adapt(without_labels(batch, needs_labels)).items() if key in names}, **fixed
    )


def as_it_is(inputs: Any) -> Any:
    """The adapter that changes nothing."""
    return inputs


def _plain_forward(model: nn.Module) -> Callable[..., Any]:
    """The forward that names its parameters: torch.compile hides it behind ``(*args, **kwargs)``."""
    return getattr(model, '_orig_mod', model).forward


def with_inputs(batch: Any, adapt: Callable[[Any], Any]) -> Any:
    """The batch with adapted inputs, in a container of its own."""
    if isinstance(batch, Mapping):
        return dict(batch) if adapt is as_it_is else {**batch, **adapt(without_labels(batch))}
    if isinstance(batch, Sequence):
        return (adapt(batch[0]), *batch[1:])
    return adapt(batch)
