"""A student with narrower hidden states: the dimensions that carry least are left out everywhere."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from composer_kd.errors import ConfigError
from composer_kd.students.architectures import Architecture, architecture_of, stacks_of
from composer_kd.students.copying import Cuts, rebuilt, shapes_of, taking
from composer_kd.students.heads import chosen_heads, cuts_of_heads, head_size, set_heads
from composer_kd.students.importance import inputs_first, layers_of, part_of
from composer_kd.students.layer_choice import most_important
from composer_kd.students.measuring import Batches
from composer_kd.students.norms import changed_statistics, corrected, norms_of, shares

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ['cut_hidden']

log = logging.getLogger(__name__)


def cut_hidden(model: PreTrainedModel, size: int, number: int | None, data: Batches) -> PreTrainedModel:
    """Copies a model with fewer dimensions in its hidden states: those in which most comes out of the norms.

    The same dimensions are kept everywhere: in embeddings, norms, and what reads and writes hidden states, the pooler
    and the head among them. Heads keep their size, so that an architecture whose heads have
    ``hidden_size / num_attention_heads`` dimensions keeps ``size / head size`` of them, those that add most.

    A norm of fewer dimensions has other statistics. Its weight is multiplied by the mean of what its deviation (of an
    RMSNorm, its root mean square) is divided by, and its bias takes up the shift of its mean, both measured on ``data``
    (:func:`~composer_kd.students.norms.corrected`). T5 divides the last hidden states by the root of the hidden size
    before a tied head: the norm there is corrected for that too.

    Args:
        model: A model of a supported architecture.
        size: How many dimensions are kept.
        number: How many heads each layer keeps, where that follows the hidden size; None: as many as it says.
        data: Batches on which all is measured; read twice, and once more where heads are left out.

    Returns:
        The copy.

    Raises:
        ConfigError: If there are not as many dimensions, or no head count fits them.
    """
    before = model.config.hidden_size
    _check(model, size, number)
    architecture = architecture_of(model)
    config, cuts = copy.deepcopy(model.config), Cuts()
    if architecture.head_size is None:
        number = size // head_size(model)
        set_heads(config, None, 0, number)
        if number < model.config.num_attention_heads:
            cuts = cuts_of_heads(model, chosen_heads(model, number, data))
    else:
        setattr(config, architecture.head_size, head_size(model))
    _set_size(model, config, architecture, size)
    norms = norms_of(model, before, shapes_of(model, config), size)
    kept = torch.tensor(most_important(shares(model, norms, data).tolist(), size))
    statistics = changed_statistics(model, norms, kept, data)
    of_heads = taking(cuts)

    def cut(name: str, value: Tensor, shape: torch.Size) -> Tensor:
        value = of_heads(name, value, shape)
        for axis, (old, new) in enumerate(zip(value.shape, shape)):
            if (old, new) == (before, size):
                value = value.index_select(axis, kept.to(value.device))
        return value

    student = rebuilt(model, config, cut=cut)
    for name, changed in statistics.items():
        corrected(student.get_submodule(name), changed)
    _correct_scale(student, architecture, before, size)
    log.info('dimensions of the hidden states, counted from 0: %s of %d', kept.tolist(), before)
    return student


def _set_size(model: PreTrainedModel, config: PretrainedConfig, architecture: Architecture, size: int) -> None:
    before = config.hidden_size
    if getattr(config, architecture.neurons) is None:  # as many as the hidden size says
        path = next(iter(stacks_of(model).values()))[1]
        into = part_of(layers_of(model, path)[0], architecture.neurons_into)
        setattr(config, architecture.neurons, len(inputs_first(into)))
    for name in architecture.as_wide:
        if getattr(config, name) == before:
            setattr(config, name, size)
        elif getattr(config, name) == size:
            raise ConfigError(
                f'hidden_size: with {name} = {size} too, {type(model).__name__} has no layer between embeddings and '
                'hidden states, and that of the teacher has no place: give another size'
            )
    config.hidden_size = size


def _check(model: PreTrainedModel, size: object, number: int | None) -> None:
    count = model.config.hidden_size
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= count:
        raise ConfigError(
            f'hidden_size: expected 1 to {count}, the dimensions of the hidden states of the teacher, got {size!r}'
        )
    if getattr(model.config, 'add_cross_attention', False):
        raise ConfigError('hidden_size: a teacher with cross-attention (config.add_cross_attention) cannot be narrowed')
    if getattr(model.config, 'pruned_heads', None):
        raise ConfigError('hidden_size: some heads of the teacher are left out already (config.pruned_heads)')
    if architecture_of(model).head_size is not None:
        return
    of_head = head_size(model)
    wanted = size // of_head if number is None else number
    if size != wanted * of_head:
        low = max(1, size // of_head)
        near = ' or '.join(f'{one * of_head} with {one} heads' for one in (low, low + 1) if one * of_head <= count)
        given = 'hidden_size' if number is None else f'num_attention_heads = {number}'
        raise ConfigError(
            f'hidden_size: by the config of {type(model).__name__} it is num_attention_heads times the size of a head, '
            f'which is {of_head} and stays; got {size} ({given}). Give a multiple of {of_head}, such as {near}, and '
            'leave num_attention_heads out'
        )


def _correct_scale(student: PreTrainedModel, architecture: Architecture, before: int, after: int) -> None:
    """Lets a tied head see hidden states of the same scale, which T5 divides by the root of their size."""
    if architecture.scaled_norm is None or not student.config.tie_word_embeddings or not hasattr(student, 'lm_head'):
        return
    weight = student.base_model.get_submodule(architecture.scaled_norm).weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight.mul_((after / before) ** 0.5)
