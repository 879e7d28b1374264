"""The loss of a microbatch as it is logged: its total, the task's and the distillation's share, and their parts."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from composer_kd.batches.checks import labels_fit
from composer_kd.batches.counts import weighed
from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import ConfigError

__all__ = ['LossParts', 'parts_of', 'share_of_batch', 'shares_of_parts', 'weight']


class LossParts(dict[str, Tensor]):
    """The loss of one microbatch; Composer backpropagates ``total`` and logs each entry as ``loss/train/<name>``.

    Args:
        total: What is minimized, a scalar.
        task: The model's own loss, a scalar.
        kd: The distillation loss, a scalar.
        matches: The loss of each match by its name.
        own: The parts of the model's own loss by name. One whose name is taken is logged as ``own_<name>``.

    Example:
        >>> one = torch.tensor(1.0)
        >>> list(LossParts(one, one, one, {'hint': one}, {'ce': one, 'dice': one}))
        ['total', 'task', 'kd', 'hint', 'ce', 'dice']
    """

    def __init__(
        self, total: Tensor, task: Tensor, kd: Tensor, matches: Mapping[str, Tensor], own: Mapping[str, Tensor]
    ) -> None:
        super().__init__({'total': total, 'task': task, 'kd': kd, **matches})
        for name, part in own.items():
            taken = name in self
            if taken:
                warnings.warn(
                    f"The part {name!r} of the model's own loss is logged as 'own_{name}': distillation logs something "
                    'of that name.',
                    stacklevel=2,
                )
            self[f'own_{name}' if taken else name] = part


def parts_of(loss: Any) -> dict[str, Tensor]:
    """The parts of a model's own loss, under the names by which Composer logs them.

    Args:
        loss: What the model's ``loss()`` returned.

    Returns:
        A scalar for each entry of a mapping but ``total``, and for each of several elements of a sequence, as
        ``loss0``, ``loss1``; without gradient. Empty for a single tensor.

    Example:
        >>> parts_of({'total': torch.tensor(3.0), 'aux': torch.tensor([1.0, 2.0])})
        {'aux': tensor(1.5000)}
        >>> parts_of((torch.tensor(1.0), torch.tensor(2.0)))
        {'loss0': tensor(1.), 'loss1': tensor(2.)}
    """
    parts: Mapping[str, Any] = {}
    if isinstance(loss, Mapping):
        parts = {name: part for name, part in loss.items() if name != 'total'}
    elif isinstance(loss, Sequence) and len(loss) > 1:
        parts = {f'loss{number}': part for number, part in enumerate(loss)}
    return {name: torch.as_tensor(part).detach().float().mean() for name, part in parts.items()}


def share_of_batch(task: Tensor, outputs: Any, micro: Microbatch, logits: Tensor | None) -> Tensor:
    """A net's own loss of a microbatch, as its share of the mean over the whole batch.

    Args:
        task: The loss, or a part of it; a scalar.
        outputs: The net's outputs.
        micro: The microbatch.
        logits: The logits in the outputs; ``None`` if they are not looked for.
    """
    if micro.task is None or not labels_fit(micro.batch, micro.form, logits):
        return task
    return weighed(task, outputs, micro.task, micro.task_share)


def shares_of_parts(loss: Any, outputs: Any, micro: Microbatch, logits: Tensor | None) -> dict[str, Tensor]:
    """The parts of a model's own loss of a microbatch, each as its share of the mean over the whole batch.

    Args:
        loss: What the model's ``loss()`` returned.
        outputs: The model's outputs.
        micro: The microbatch.
        logits: The logits in the outputs; ``None`` if they are not looked for.
    """
    return {name: share_of_batch(part, outputs, micro, logits) for name, part in parts_of(loss).items()}


def weight(name: str, value: float) -> float:
    """A weight of a loss.

    Raises:
        ConfigError: If it is not a finite number of 0 or more.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value) or value < 0:
        raise ConfigError(f'{name} must be a finite number of 0 or more, got {value!r}')
    return float(value)
