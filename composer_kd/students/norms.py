"""The norms of the hidden states: what comes out of them in each dimension, and how a cut changes their statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.students.architectures import stacks_of
from composer_kd.students.measuring import Batches, Mean, Positions, run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ['Statistics', 'changed_statistics', 'corrected', 'norms_of', 'shares']

Statistics = tuple[float, float]
"""Of a norm after a cut: the deviation divided by that of before, and the mean less that of before, in deviations."""


def norms_of(model: PreTrainedModel, before: int, shapes: Mapping[str, torch.Size], after: int) -> dict[str, nn.Module]:
    """Finds the norms over the hidden states.

    Args:
        model: A model of a supported architecture.
        before: Its hidden size.
        shapes: The shapes of the parameters of the narrower model.
        after: The hidden size of that.

    Returns:
        The norms by their names.
    """
    return {
        name: part
        for name, part in model.named_modules()
        if 'norm' in type(part).__name__.lower()
        and isinstance(getattr(part, 'weight', None), Tensor)
        and (tuple(part.weight.shape), tuple(shapes[f'{name}.weight'])) == ((before,), (after,))
    }


def shares(model: PreTrainedModel, norms: Mapping[str, nn.Module], data: Batches) -> Tensor:
    """Measures how much of what comes out of the norms lies in each dimension of the hidden states.

    For each norm the mean over all valid positions of ``|a_i|``, divided by its sum over all dimensions ``i``; the mean
    of that over all norms. Without the division it is Minitron's importance (https://arxiv.org/abs/2407.14679,
    section 2.2), to which norms with large weights add more.

    Args:
        model: The model.
        norms: Its norms over the hidden states.
        data: Batches; all of them are read once.

    Returns:
        The share of each dimension, (hidden size,), float64 on the CPU; their sum is 1.

    Raises:
        ConfigError: As :func:`.block_influence`.
    """
    found = _measured(model, norms, data, lambda norm, inputs, output: output.float().abs())
    rows = torch.stack(list(found.values()))
    return (rows / rows.sum(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)).mean(0)


def changed_statistics(
    model: PreTrainedModel, norms: Mapping[str, nn.Module], kept: Tensor, data: Batches
) -> dict[str, Statistics]:
    """Measures how the statistics of the norms change if they see some of the dimensions alone.

    The means over all valid positions of ``s' / s`` and ``(m' - m) / s``: ``s`` is the root of the variance of all
    dimensions and epsilon (of the mean square in an RMSNorm, where ``m`` is 0), ``m`` their mean, and ``s'`` and ``m'``
    are those of the kept dimensions.

    Args:
        model: The model before the cut.
        norms: Its norms over the hidden states.
        kept: The indices of the dimensions that are kept.
        data: Batches; all of them are read once.

    Returns:
        The statistics of the norms that ran.
    """

    def change(norm: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
        before, mean = _deviation(norm, inputs.float())
        after, kept_mean = _deviation(norm, inputs.float().index_select(-1, kept.to(inputs.device)))
        return torch.stack([after / before, (kept_mean - mean) / before], dim=-1)

    return {name: (float(one[0]), float(one[1])) for name, one in _measured(model, norms, data, change).items()}


@torch.no_grad()
def corrected(norm: nn.Module, statistics: Statistics) -> None:
    """Lets the norm of a cut model give what it gave before, as far as its statistics have changed evenly.

    ``(x - m') / s' w' + b'`` with ``w' = w s' / s`` and ``b' = b + w (m' - m) / s`` is ``(x - m) / s w + b``.

    Args:
        norm: The norm, which is changed; without a bias the means stay as they are.
        statistics: How its statistics have changed.
    """
    ratio, shift = statistics
    weight = norm.weight
    assert isinstance(weight, Tensor)
    bias = getattr(norm, 'bias', None)
    if isinstance(bias, Tensor):
        bias.add_(weight * shift)
    weight.mul_(ratio)


def _deviation(norm: nn.Module, values: Tensor) -> tuple[Tensor, Tensor]:
    centred = isinstance(norm, nn.LayerNorm)
    mean = values.mean(-1) if centred else torch.zeros_like(values[..., 0])
    epsilon = getattr(norm, 'variance_epsilon', getattr(norm, 'eps', None))
    square = (values - mean[..., None]).square().mean(-1)
    return (square + (epsilon or 0.0)).sqrt(), mean


def _measured(
    model: PreTrainedModel,
    norms: Mapping[str, nn.Module],
    data: Batches,
    measure: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """The means over all valid positions of what is measured of each norm that runs."""
    sums: dict[str, Mean] = {}
    current = Positions()
    around = {stack: ''.join(path.rpartition('.')[:2]) for stack, (_, path) in stacks_of(model).items()}

    def hook(name: str) -> Callable[..., None]:
        stack = next((one for one, prefix in around.items() if name.startswith(prefix)), next(iter(around)))

        def add(norm: nn.Module, args: Any, output: Tensor) -> None:
            found = measure(norm, args[0], output)
            pooled = args[0].dim() == 2  # one vector for each sample
            sums.setdefault(name, Mean()).add(found if pooled else current.valid(found, stack))

        return add

    run(model, data, current, [norm.register_forward_hook(hook(name)) for name, norm in norms.items()])
    if not sums:
        raise ConfigError('data: expected at least one batch with a valid position, got none')
    return {name: mean.value() for name, mean in sums.items()}
