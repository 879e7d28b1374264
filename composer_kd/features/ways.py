"""The ways of calling a model with a batch."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from composer.models import HuggingFaceModel
from torch import nn
from typing_extensions import override

from composer_kd.batches.contents import without_labels

__all__ = ['Calling', 'InOrder', 'WithBatch', 'WithInputs', 'WithKeywords', 'as_it_is', 'with_inputs']


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
        settings: What it is told besides, where it has such keywords and the batch says nothing of them: by default to
            build no cache of keys and values, which is useful in generation only.
    """

    names: frozenset[str]
    any_name: bool = False
    needs_labels: bool = False
    settings: tuple[tuple[str, Any], ...] = (('use_cache', False),)
    by_name = True

    @override
    def __call__(self, model: nn.Module, batch: Any, adapt: Callable[[Any], Any] = as_it_is) -> Any:
        given = {
            key: value for key, value in adapt(without_labels(batch, self.needs_labels)).items() if self.takes(key)
        }
        for key, value in self.settings:
            if key in self.names:
                given.setdefault(key, value)
        return (model.model if isinstance(model, HuggingFaceModel) else model)(**given)

    @override
    def takes(self, key: str) -> bool:
        return self.any_name or key in self.names

    @override
    def arguments(self, batch: str, names: Sequence[str]) -> str:
        return ', '.join(f'{name}={name}' for name in names)


@dataclass(frozen=True)
class InOrder(Calling):
    """Entries of a mapping are arguments in the order in which ``torch.export`` recorded them.

    Args:
        names: The names of all arguments.
        positional: How many of them have no keyword.
    """

    names: tuple[str, ...]
    positional: int
    by_name = True

    @override
    def __call__(self, model: nn.Module, batch: Any, adapt: Callable[[Any], Any] = as_it_is) -> Any:
        given = adapt(without_labels(batch))
        first, others = self.names[: self.positional], self.names[self.positional :]
        return model(*(given[name] for name in first), **{name: given[name] for name in others})

    @override
    def takes(self, key: str) -> bool:
        return key in self.names

    @override
    def arguments(self, batch: str, names: Sequence[str]) -> str:
        return ', '.join(names)


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


def with_inputs(batch: Any, adapt: Callable[[Any], Any]) -> Any:
    """Returns the batch with adapted inputs in a new container; the given batch stays unchanged."""
    if isinstance(batch, Mapping):
        return dict(batch) if adapt is as_it_is else {**batch, **adapt(without_labels(batch))}
    if isinstance(batch, Sequence):
        return (adapt(batch[0]), *batch[1:])
    return adapt(batch)
