"""Decides how a model is called with a batch, from the model's signature and the form of the batch."""

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
    """Chooses how a model is called with batches of one form.

    Args:
        model: The model.
        batch: One batch of this form.
        adapt: A function that changes the inputs before the model gets them; ``None`` for no change.
        whose: The model's name, for the error.

    Returns:
        A function from a batch to the model's outputs.

    Raises:
        TeacherError: If the model's parameters match no entry of the batch.

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
    """The same for a mapping: by the names of parameters, as a whole, or its only tensor."""
    module, names = model, set(parameters)
    if isinstance(model, HuggingFaceModel):
        module, names = model.model, set(model.model_forward_args)
    needs_labels = bool(getattr(getattr(model, 'config', None), 'is_encoder_decoder', False))
    keys = set(without_labels(batch))
    # Hugging Face models name all their inputs; their **kwargs take settings.
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
    # A cache of keys and values is useful in generation only.
    fixed = {'use_cache': False} if 'use_cache' in names and 'use_cache' not in batch else {}
    return lambda batch: module(
        **{key: value for key, value in adapt(without_labels(batch, needs_labels)).items() if key in names}, **fixed
    )


def as_it_is(inputs: Any) -> Any:
    """The adapter that returns the inputs unchanged."""
    return inputs


def _plain_forward(model: nn.Module) -> Callable[..., Any]:
    """The original ``forward`` with its named parameters, which torch.compile hides behind ``(*args, **kwargs)``."""
    return getattr(model, '_orig_mod', model).forward


def with_inputs(batch: Any, adapt: Callable[[Any], Any]) -> Any:
    """Returns the batch with adapted inputs in a new container; the given batch stays unchanged."""
    if isinstance(batch, Mapping):
        return dict(batch) if adapt is as_it_is else {**batch, **adapt(without_labels(batch))}
    if isinstance(batch, Sequence):
        return (adapt(batch[0]), *batch[1:])
    return adapt(batch)
