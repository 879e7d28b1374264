"""How much the layers of a model, and the neurons and heads in them, do on data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.students.architectures import stacks_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ['Batches', 'block_influence', 'norms_into']

Batches: TypeAlias = Iterable[Mapping[str, Any]]
"""Batches as transformers takes them, such as a DataLoader of dicts with ``input_ids`` and ``attention_mask``."""

IGNORED = -100  # the label of a position that does not count


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
    sums = {name: [_Mean() for _ in _layers(model, path)] for name, (_, path) in stacks_of(model).items()}
    current = _Positions()

    def hook(mean: _Mean, stack: str) -> Callable[..., None]:
        def measure(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs['hidden_states']
            after = _hidden_states(output, before)
            change = 1 - torch.cosine_similarity(before.float(), after.float(), dim=-1)
            mean.add(current.valid(change, stack))

        return measure

    handles = [
        layer.register_forward_hook(hook(sums[name][index], name), with_kwargs=True)
        for name, (_, path) in stacks_of(model).items()
        for index, layer in enumerate(_layers(model, path))
    ]
    _run(model, data, current, handles)
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
        For each stack the measures of its layers: (inputs,) or (groups,), float64 on the CPU.

    Raises:
        ConfigError: As :func:`block_influence`.
    """
    sums = {name: [_Mean() for _ in _layers(model, where)] for name, (_, where) in stacks_of(model).items()}
    current = _Positions()

    def hook(mean: _Mean, stack: str) -> Callable[..., None]:
        def measure(linear: nn.Module, args: Any) -> None:
            inputs = args[0].float()
            weight = inputs_first(linear).float()
            if groups is None:
                added = inputs.abs() * weight.norm(dim=1)
            else:
                parts = zip(inputs.chunk(groups, dim=-1), weight.chunk(groups, dim=0))
                added = torch.stack([(part @ rows).norm(dim=-1) for part, rows in parts], dim=-1)
            mean.add(current.valid(added, stack))

        return measure

    handles = [
        part_of(layer, path).register_forward_pre_hook(hook(sums[name][index], name))
        for name, (_, where) in stacks_of(model).items()
        for index, layer in enumerate(_layers(model, where))
    ]
    _run(model, data, current, handles)
    return {name: [mean.value() for mean in means] for name, means in sums.items()}


def part_of(layer: nn.Module, path: str) -> nn.Module:
    """Finds a part of a layer by its path, in which ``-1`` is the last of a list."""
    for name in path.split('.'):
        layer = layer[-1] if name == '-1' and isinstance(layer, nn.ModuleList) else layer.get_submodule(name)
    return layer


def inputs_first(linear: nn.Module) -> Tensor:
    """The weight of a linear layer as (inputs, outputs); GPT-2 keeps it so."""
    weight = linear.weight
    assert isinstance(weight, Tensor)
    return weight.detach().T if isinstance(linear, nn.Linear) else weight.detach()


class _Mean:
    """A running mean over positions, of numbers or vectors."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._count = 0

    def add(self, rows: Tensor) -> None:
        self._sum = self._sum + rows.double().sum(0).cpu()
        self._count += len(rows)

    def value(self) -> Tensor:
        if not self._count:
            raise ConfigError('data: expected at least one batch with a valid position, got none')
        mean = torch.as_tensor(self._sum) / self._count
        if not mean.isfinite().all():
            raise ConfigError(
                'data: the teacher computes infinite or undefined values (NaN) on it; check its precision'
            )
        return mean


class _Positions:
    """Which positions of the batch that is being run are valid, by stack."""

    def __init__(self) -> None:
        self._masks: dict[str, Tensor | None] = {}

    def read(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> None:
        first = batch.get('attention_mask')
        if not getattr(model.config, 'is_encoder_decoder', False):
            self._masks = {'encoder': first, 'decoder': first}
            return
        second = batch.get('decoder_attention_mask')
        if second is None and batch.get('labels') is not None:
            second = batch['labels'] != IGNORED
        self._masks = {'encoder': first, 'decoder': second}

    def valid(self, values: Tensor, stack: str) -> Tensor:
        """The values (B, S) or (B, S, N) at valid positions, as rows."""
        mask = self._masks[stack]
        if mask is None:
            return values.flatten(0, 1)
        if mask.shape != values.shape[:2]:
            raise ConfigError(
                f'data: expected an attention mask of shape {tuple(values.shape[:2])} (samples, positions) in the '
                f'{stack}, got {tuple(mask.shape)}'
            )
        return values[mask.bool()]


def _layers(model: PreTrainedModel, path: str) -> nn.ModuleList:
    layers = model.get_submodule(path)
    assert isinstance(layers, nn.ModuleList)
    return layers


def _hidden_states(output: Any, before: Tensor) -> Tensor:
    """The hidden states in what a layer returns; attention maps may stand before them."""
    if isinstance(output, Tensor):
        return output
    return next(part for part in output if isinstance(part, Tensor) and part.shape == before.shape)


def _run(model: PreTrainedModel, data: Batches, current: _Positions, handles: list[Any]) -> None:
    """Runs all batches, and removes the hooks."""
    takes = inspect.signature(model.forward).parameters
    try:
        with _evaluating(model), torch.no_grad():
            for batch in data:
                if not isinstance(batch, Mapping):
                    raise ConfigError(
                        f'data: expected batches that are mappings, such as input_ids and attention_mask by name, got '
                        f'{type(batch).__name__}'
                    )
                device = model.device
                moved = {
                    key: value.to(device) if isinstance(value, Tensor) else value
                    for key, value in batch.items()
                    if key in takes
                }
                current.read(model, moved)
                model(**moved)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode in this context; each part is then in its own mode again."""
    modes = {part: part.training for part in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for part, training in modes.items():
            part.training = training
