"""A narrower student: the neurons and attention heads that do least are left out of each layer."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from composer_kd.errors import ConfigError
from composer_kd.students.architectures import SUPPORTED, architecture_of, stacks_of
from composer_kd.students.copying import rebuilt
from composer_kd.students.importance import Batches, inputs_first, norms_into, part_of
from composer_kd.students.layer_choice import most_important

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ['cut_heads', 'cut_neurons']


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


def cut_heads(model: PreTrainedModel, number: int, data: Batches) -> PreTrainedModel:
    """Leaves the attention heads that add least out of each layer of a student.

    ``config.pruned_heads`` says which, so that ``from_pretrained`` builds the same model.

    Args:
        model: The student, which is changed.
        number: How many heads each layer keeps.
        data: Batches on which they are measured, as :func:`~composer_kd.students.importance.norms_into` says.

    Returns:
        The same student.

    Raises:
        ConfigError: If there are not as many heads, or transformers prunes none in this architecture.
    """
    path = architecture_of(model).heads_into
    if path is None:
        able = ', '.join(sorted(name for name, one in SUPPORTED.items() if one.heads_into is not None))
        raise ConfigError(
            f'num_attention_heads: transformers leaves no heads out of {type(model).__name__}. It does of: {able}'
        )
    count = model.config.num_attention_heads
    _check_size('num_attention_heads', number, count, 'attention heads')
    if getattr(model.config, 'pruned_heads', None):
        raise ConfigError('num_attention_heads: some heads of the teacher are left out already (config.pruned_heads)')
    (scores,) = norms_into(model, data, path, groups=count).values()
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
        model.prune_heads(
            {
                layer: sorted(set(range(count)) - set(most_important(heads.tolist(), number)))
                for layer, heads in enumerate(scores)
            }
        )
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    return model


def _check_size(key: str, size: object, count: int, what: str) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= count:
        raise ConfigError(f'{key}: expected 1 to {count}, the {what} of each layer of the teacher, got {size!r}')
