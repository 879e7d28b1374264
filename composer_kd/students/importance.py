"""How much the layers of a model, and the neurons and heads in them, do on data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from composer_kd.students.architectures import stacks_of
from composer_kd.students.measuring import Batches, Mean, Positions, run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ['block_influence', 'has_part', 'inputs_first', 'layers_of', 'norms_into', 'part_of']


def block_influence(model: PreTrainedModel, data: Batches) -> dict[str, list[float]]:
    """Measures how much each layer changes its input: the block influence of ShortGPT.

    The mean over all valid positions of ``1 - cos(x, layer(x))``, where ``x`` are the hidden states before the layer
    (https://arxiv.org/abs/2403.03853, eq. 1). Positions are valid where ``attention_mask`` is not 0; in a decoder below
    an encoder where ``decoder_attention_mask`` is not 0, else where the label is not -100. The model runs in evaluation
    mode without gradients, and is left as it was.

    Args:
        model: A model of a supported architecture.
        data: Batches; all of them are read once.

    Returns:
        For each stack the influence of its layers: 0 for a layer that changes nothing, 2 at most.

    Raises:
        ConfigError: If there is no valid position, or the batches are not as the model takes them.
    """
    sums = {name: [Mean() for _ in layers_of(model, path)] for name, (_, path) in stacks_of(model).items()}
    current = Positions()

    def hook(mean: Mean, stack: str) -> Callable[..., None]:
        def measure(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs['hidden_states']
            after = _hidden_states(output, before)
            change = 1 - torch.cosine_similarity(before.float(), after.float(), dim=-1)
            mean.add(current.valid(change, stack))

        return measure

    handles = [
        layer.register_forward_hook(hook(sums[name][index], name), with_kwargs=True)
        for name, (_, path) in stacks_of(model).items()
        for index, layer in enumerate(layers_of(model, path))
    ]
    run(model, data, current, handles)
    return {name: [float(mean.value()) for mean in means] for name, means in sums.items()}


def norms_into(model: PreTrainedModel, data: Batches, path: str, groups: int | None = None) -> dict[str, list[Tensor]]:
    """Measures how much each input of a linear layer adds to its output, for example each feed-forward neuron.

    The mean over all valid positions of the length of what it adds: ``|a_j| ||W_j||`` for one input ``a_j`` with the
    weights ``W_j``, and ``||W_g a_g||`` for a group of inputs such as the outputs of one attention head.

    Args:
        model: A model of a supported architecture.
        data: Batches; all of them are read once.
        path: The linear layer, as named in a layer of the model.
        groups: The number of equal groups of inputs; None: each input is one.

    Returns:
        For each stack whose layers have it the measures of its layers: (inputs,) or (groups,), float64 on the CPU.

    Raises:
        ConfigError: As :func:`block_influence`.
    """
    parts = {
        name: [part_of(layer, path) for layer in layers_of(model, where)]
        for name, (_, where) in stacks_of(model).items()
        if has_part(layers_of(model, where)[0], path)
    }
    sums = {name: [Mean() for _ in found] for name, found in parts.items()}
    current = Positions()

    def hook(mean: Mean, stack: str) -> Callable[..., None]:
        def measure(linear: nn.Module, args: Any) -> None:
            inputs = args[0].float()
            weight = inputs_first(linear).float()
            if groups is None:
                added = inputs.abs() * weight.norm(dim=1)
            else:
                pairs = zip(inputs.chunk(groups, dim=-1), weight.chunk(groups, dim=0))
                added = torch.stack([(part @ rows).norm(dim=-1) for part, rows in pairs], dim=-1)
            mean.add(current.valid(added, stack))

        return measure

    handles = [
        linear.register_forward_pre_hook(hook(mean, name))
        for name, found in parts.items()
        for linear, mean in zip(found, sums[name])
    ]
    run(model, data, current, handles)
    return {name: [mean.value() for mean in means] for name, means in sums.items()}


def part_of(layer: nn.Module, path: str) -> nn.Module:
    """Finds a part of a layer by its path, in which ``-1`` is the last of a list."""
    for name in path.split('.'):
        layer = layer[-1] if name == '-1' and isinstance(layer, nn.ModuleList) else layer.get_submodule(name)
    return layer


def has_part(layer: nn.Module, path: str) -> bool:
    """Whether a layer has the part that :func:`part_of` finds."""
    try:
        part_of(layer, path)
    except AttributeError:
        return False
    return True


def inputs_first(linear: nn.Module) -> Tensor:
    """The weight of a linear layer as (inputs, outputs); GPT-2 keeps it so."""
    weight = linear.weight
    assert isinstance(weight, Tensor)
    return weight.detach().T if isinstance(linear, nn.Linear) else weight.detach()


def layers_of(model: PreTrainedModel, path: str) -> nn.ModuleList:
    """The layers of a stack, by the path that :func:`.stacks_of` says."""
    layers = model.get_submodule(path)
    assert isinstance(layers, nn.ModuleList)
    return layers


def _hidden_states(output: Any, before: Tensor) -> Tensor:
    """The hidden states in what a layer returns; attention maps may stand before them."""
    if isinstance(output, Tensor):
        return output
    return next(part for part in output if isinstance(part, Tensor) and part.shape == before.shape)
