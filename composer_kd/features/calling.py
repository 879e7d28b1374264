"""Decides how a model is called with a batch, from the model's signature and the form of the batch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from composer.models import ComposerClassifier, ComposerModel, HuggingFaceModel
from torch import Tensor, nn

from composer_kd.batches.contents import without_labels
from composer_kd.errors import ConfigError, TeacherError
from composer_kd.features.ways import (
    Calling,
    InOrder,
    WithBatch,
    WithInputs,
    WithKeywords,
    as_it_is,
    with_inputs,
)

__all__ = [
    'Calling',
    'InOrder',
    'WithBatch',
    'WithInputs',
    'WithKeywords',
    'as_it_is',
    'calling_of',
    'choose_call',
    'settings_of',
    'unwrapped',
    'with_inputs',
]


def calling_of(
    model: nn.Module, batch: Any, whose: str = 'the model', settings: Mapping[str, Any] | None = None
) -> Calling:
    """Finds out how a model takes batches of this kind.

    Args:
        model: The model.
        batch: One batch of the kind: a tensor, an ``(inputs, labels)`` pair, or a mapping.
        whose: The model's name, for the error.
        settings: What it is told besides the batch, if it has such keywords; ``None`` for the default.

    Returns:
        How to call it.

    Raises:
        ConfigError: If the model takes nothing that the batch has.

    Example:
        >>> import torch
        >>> batch = {'x': torch.zeros(4, 2), 'labels': torch.zeros(4)}
        >>> calling_of(nn.Linear(2, 3), batch)
        WithInputs(key='x')
        >>> calling_of(nn.Linear(2, 3), batch)(nn.Linear(2, 3), batch).shape
        torch.Size([4, 3])
    """
    of_hugging_face = isinstance(model, HuggingFaceModel)
    if isinstance(model, ComposerModel) and not (of_hugging_face and isinstance(batch, Mapping)):
        return WithBatch()
    parameters = _parameters(model)
    takes_batch = next(iter(parameters), None) == 'batch'
    if isinstance(batch, Mapping):
        keywords = _keywords(model, parameters)
        keywords = keywords if settings is None else replace(keywords, settings=tuple(settings.items()))
        keys = list(without_labels(batch))
        if any(key in keywords.names for key in keys):
            return _as_recorded(model, parameters) or keywords
        if takes_batch:
            return WithBatch()
        return keywords if keywords.any_name and keys else WithInputs(_only_tensor(batch, parameters, whose))
    if takes_batch:
        return WithBatch()
    return WithInputs(0 if isinstance(batch, Sequence) else None)


def _keywords(model: nn.Module, parameters: Mapping[str, inspect.Parameter]) -> WithKeywords:
    of_hugging_face = isinstance(model, HuggingFaceModel)
    names = model.model_forward_args if isinstance(model, HuggingFaceModel) else parameters
    # Hugging Face models name all their inputs: their **kwargs are for settings.
    named = of_hugging_face or hasattr(model, 'config')
    any_name = not named and any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    needs_labels = bool(getattr(getattr(model, 'config', None), 'is_encoder_decoder', False))
    base: Any = getattr(model, 'get_base_model', None)
    if callable(base):  # an adapter of PEFT hands on what its own forward does not name
        names = {*names, *inspect.signature(base().forward).parameters}
    return WithKeywords(frozenset(names), any_name, needs_labels)


def _as_recorded(model: nn.Module, parameters: Mapping[str, Any]) -> InOrder | None:
    """How a module of ``torch.export`` is called, which takes its arguments exactly as in the recorded call."""
    recorded = getattr(getattr(getattr(model, 'graph', None), '_codegen', None), 'pytree_info', None)
    if recorded is None or recorded.in_spec.num_children != 2:
        return None
    return InOrder(tuple(parameters), recorded.in_spec.children_specs[0].num_children)


def _only_tensor(batch: Mapping[str, Any], parameters: Mapping[str, Any], whose: str) -> str:
    """The key of the only tensor that can be the inputs."""
    keys = [key for key in without_labels(batch) if key not in ('attention_mask', 'index')]
    tensors = [key for key in keys if isinstance(batch[key], Tensor)]
    if len(tensors) != 1:
        raise ConfigError(
            f'{whose} takes {", ".join(parameters) or "nothing"}, of which the batch with the keys {sorted(batch)} '
            'has none'
        )
    return tensors[0]


def choose_call(
    model: nn.Module,
    batch: Any,
    adapt: Callable[[Any], Any] | None = None,
    whose: str = 'the model',
    settings: Mapping[str, Any] | None = None,
) -> functools.partial[Any]:
    """Chooses how a model is called with batches of one form.

    Args:
        model: The model.
        batch: One batch of this form.
        adapt: A function that changes the inputs before the model gets them; ``None`` for no change.
        whose: The model's name, for the error.
        settings: What it is told besides the batch, if it has such keywords; ``None`` for the default.

    Returns:
        A function from a batch to the model's outputs: a :class:`.Calling` with the model as its first argument.

    Raises:
        TeacherError: If the model's parameters match no entry of the batch.

    Example:
        >>> import torch
        >>> batch = {'x': torch.zeros(4, 2), 'labels': torch.zeros(4)}
        >>> choose_call(nn.Linear(2, 3), batch)(batch).shape
        torch.Size([4, 3])
    """
    try:
        calling = calling_of(model, batch, whose, settings)
    except ConfigError as error:
        raise TeacherError(
            f'{error}. Say how to call it: FrozenTeacher(model, forward=lambda model, batch: ...).'
        ) from None
    return functools.partial(calling, model, adapt=adapt or as_it_is)


def unwrapped(model: nn.Module) -> nn.Module:
    """The net inside the wrappers that Composer trains it in."""
    if isinstance(model, ComposerClassifier):
        return model.module
    return model.model if isinstance(model, HuggingFaceModel) else model


def settings_of(student: nn.Module) -> dict[str, Any]:
    """What a student's wrapper leaves to its config and changes its answers: its teachers must be told the same.

    Transformers tells packed samples apart (position ids that restart, no attention mask) only without a cache of keys
    and values. ``HuggingFaceModel`` calls its model without a word about the cache, as ``config.use_cache`` says;
    gradient checkpointing turns it off.

    Args:
        student: The student.

    Returns:
        The settings by their keywords; empty if the student's config does not speak of a cache.

    Example:
        >>> settings_of(nn.Linear(2, 3))
        {}
    """
    parts = list(student.modules())
    said = (getattr(getattr(part, 'config', None), 'use_cache', None) for part in parts)
    caches = next((value for value in said if value is not None), None)
    if caches is None:
        return {}
    return {'use_cache': bool(caches) and not any(getattr(part, 'is_gradient_checkpointing', False) for part in parts)}


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of ``forward``: of the original that ``torch.compile`` hides, or of TorchScript's own schema."""
    forward = getattr(model, '_orig_mod', model).forward
    schema = getattr(forward, 'schema', None)
    if schema is None:
        return inspect.signature(forward).parameters
    names = [argument.name for argument in schema.arguments[1:]]
    return {name: inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names}
