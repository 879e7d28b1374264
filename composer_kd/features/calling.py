"""Decides how a model is called with a batch, from the model's signature and the form of the batch."""

from __future__ import annotations

import abc
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from composer.models import ComposerClassifier, ComposerModel, HuggingFaceModel
from torch import Tensor, nn
from typing_extensions import override

from composer_kd.batches.contents import without_labels
from composer_kd.errors import ConfigError, TeacherError

__all__ = [
    'Calling',
    'WithBatch',
    'WithInputs',
    'WithKeywords',
    'as_it_is',
    'calling_of',
    'choose_call',
    'unwrapped',
    'with_inputs',
]


def as_it_is(inputs: Any) -> Any:
    """The adapter that returns the inputs unchanged."""
    return inputs


class Calling(abc.ABC):
    """One way of calling a model with batches of one kind.

    It holds no model, so that it fits every copy of one: quantised, in another precision, on another device.
    """

    by_name: ClassVar[bool]
    """Whether the model is given the entries of a mapping under their names."""

    @abc.abstractmethod
    def __call__(self, model: nn.Module, batch: Any, adapt: Callable[[Any], Any] = as_it_is) -> Any:
        """Calls a model.

        Args:
            model: The model that this way was found for, or a copy.
            batch: A batch of the kind that it was found for; left as it is.
            adapt: Changes the inputs first.

        Returns:
            What the model returns.
        """

    @abc.abstractmethod
    def takes(self, key: str) -> bool:
        """Whether the model is given this entry of a mapping; labels aside."""

    @abc.abstractmethod
    def arguments(self, batch: str, names: Sequence[str]) -> str:
        """The arguments of such a call as Python text.

        Args:
            batch: Python that makes a batch of the variables.
            names: A variable for each of the inputs.
        """


@dataclass(frozen=True)
class WithBatch(Calling):
    """The whole batch is the argument, as of a ``ComposerModel``."""

    by_name = True

    @override
    def __call__(self, model: nn.Module, batch: Any, adapt: Callable[[Any], Any] = as_it_is) -> Any:
        return model(with_inputs(batch, adapt))

    @override
    def takes(self, key: str) -> bool:
        return True

    @override
    def arguments(self, batch: str, names: Sequence[str]) -> str:
        return batch


@dataclass(frozen=True)
class WithKeywords(Calling):
    """Entries of a mapping are keyword arguments.

    Args:
        names: The keywords that the model has.
        any_name: Whether it takes all others too, as ``forward(self, **inputs)`` does.
        needs_labels: Whether labels are inputs as well: encoder-decoders make their decoder's inputs of them.
    """

    names: frozenset[str]
    any_name: bool = False
    needs_labels: bool = False
    by_name = True

    @override
    def __call__(self, model: nn.Module, batch: Any, adapt: Callable[[Any], Any] = as_it_is) -> Any:
        given = {
            key: value for key, value in adapt(without_labels(batch, self.needs_labels)).items() if self.takes(key)
        }
        if 'use_cache' in self.names:
            given.setdefault('use_cache', False)  # a cache of keys and values is useful in generation only
        return (model.model if isinstance(model, HuggingFaceModel) else model)(**given)

    @override
    def takes(self, key: str) -> bool:
        return self.any_name or key in self.names

    @override
    def arguments(self, batch: str, names: Sequence[str]) -> str:
        return ', '.join(f'{name}={name}' for name in names)


@dataclass(frozen=True)
class WithInputs(Calling):
    """The inputs alone are the argument.

    Args:
        key: Where they are: a key of a mapping, the first place of a sequence; None where they are the batch itself.
    """

    key: str | int | None
    by_name = False

    @override
    def __call__(self, model: nn.Module, batch: Any, adapt: Callable[[Any], Any] = as_it_is) -> Any:
        if isinstance(self.key, str):
            return model(adapt(without_labels(batch))[self.key])
        return model(adapt(batch if self.key is None else batch[self.key]))

    @override
    def takes(self, key: str) -> bool:
        return key == self.key

    @override
    def arguments(self, batch: str, names: Sequence[str]) -> str:
        return names[0]


def calling_of(model: nn.Module, batch: Any, whose: str = 'the model') -> Calling:
    """Finds out how a model takes batches of this kind.

    Args:
        model: The model.
        batch: One batch of the kind: a tensor, an ``(inputs, labels)`` pair, or a mapping.
        whose: The model's name, for the error.

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
    parameters = inspect.signature(_plain_forward(model)).parameters
    takes_batch = next(iter(parameters), None) == 'batch'
    if isinstance(batch, Mapping):
        keywords = _keywords(model, parameters)
        keys = list(without_labels(batch))
        if any(key in keywords.names for key in keys):
            return keywords
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
    return WithKeywords(frozenset(names), any_name, needs_labels)


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
    try:
        calling = calling_of(model, batch, whose)
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
