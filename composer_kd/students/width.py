"""A narrower student: the neurons, attention heads and dimensions that do least are left out."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from composer_kd.errors import ConfigError
from composer_kd.students.architectures import architecture_of, stacks_of
from composer_kd.students.copying import rebuilt
from composer_kd.students.heads import cut_heads
from composer_kd.students.hidden import cut_hidden
from composer_kd.students.importance import inputs_first, norms_into, part_of
from composer_kd.students.layer_choice import most_important
from composer_kd.students.measuring import Batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ['Widths', 'cut_neurons', 'cut_width']


@dataclass(frozen=True)
class Widths:
    """The sizes of a narrower student, by the names of transformers; None: as in the teacher.

    Args:
        num_attention_heads: Attention heads of each layer.
        intermediate_size: Neurons in the feed-forward part of each layer.
        hidden_size: Dimensions of the hidden states.
    """

    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    hidden_size: int | None = None

    def given(self) -> list[str]:
        """The names of the sizes that are given."""
        return [one.name for one in fields(self) if getattr(self, one.name) is not None]


def cut_width(model: PreTrainedModel, widths: Widths, data: Batches) -> PreTrainedModel:
    """Copies a model with fewer neurons, then heads, then dimensions of its hidden states.

    Args:
        model: A model of a supported architecture; it may be changed.
        widths: What is kept.
        data: Batches on which each is measured, in the model that is left before.

    Returns:
        The narrower model.

    Raises:
        ConfigError: If there are not as many, or the sizes do not fit one another.
    """
    if widths.intermediate_size is not None:
        model = cut_neurons(model, widths.intermediate_size, data)
    heads, size = widths.num_attention_heads, widths.hidden_size
    follows = size is not None and architecture_of(model).head_size is None  # the heads follow the hidden size
    if heads is not None and not follows:
        model = cut_heads(model, heads, data)
    return model if size is None else cut_hidden(model, size, heads if follows else None, data)


def cut_neurons(model: PreTrainedModel, size: int, data: Batches) -> PreTrainedModel:
    """Copies a model with fewer neurons in the feed-forward part of each layer: those that add most to its output.

    Args:
        model: A model of a supported architecture.
        size: How many neurons each layer keeps.
        data: Batches on which they are measured, as :func:`~composer_kd.students.importance.norms_into` says.

    Returns:
        The copy.

    Raises:
        ConfigError: If there are not as many neurons.
    """
    architecture = architecture_of(model)
    stacks = stacks_of(model)
    some_path = next(iter(stacks.values()))[1]
    count = len(inputs_first(part_of(model.get_submodule(some_path)[0], architecture.neurons_into)))
    _check_size('intermediate_size', size, count, 'neurons')
    scores = norms_into(model, data, architecture.neurons_into)
    kept = {
        f'{path}.{number}.': torch.tensor(most_important(layer.tolist(), size))
        for name, (_, path) in stacks.items()
        for number, layer in enumerate(scores[name])
    }
    config = copy.deepcopy(model.config)
    setattr(config, architecture.neurons, size)

    def cut(name: str, value: Tensor, shape: torch.Size) -> Tensor:
        for dimension, (before, after) in enumerate(zip(value.shape, shape)):
            if (before, after) == (count, size) and before != after:
                index = next(index for prefix, index in kept.items() if name.startswith(prefix))
                value = value.index_select(dimension, index.to(value.device))
        return value

    return rebuilt(model, config, cut=cut)


def _check_size(key: str, size: object, count: int, what: str) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= count:
        raise ConfigError(f'{key}: expected 1 to {count}, the {what} of each layer of the teacher, got {size!r}')
