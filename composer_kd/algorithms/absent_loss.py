"""Students whose output has no loss: an encoder, or any ``HuggingFaceModel`` on batches without labels."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from composer.core import State
from composer.models import HuggingFaceModel
from torch import Tensor, nn

from composer_kd.errors import ConfigError

__all__ = ['reads_loss', 'supply_loss']


def reads_loss(model: nn.Module) -> bool:
    """Whether a model reads its loss from its output, as ``HuggingFaceModel.loss`` does.

    Example:
        >>> reads_loss(nn.Linear(2, 3))
        False
    """
    return isinstance(model, HuggingFaceModel) and type(model).loss is HuggingFaceModel.loss


def supply_loss(state: State, is_needed: bool) -> None:
    """At ``BEFORE_LOSS``: gives an output without a loss a loss of 0, if the loss has no weight anyway.

    Args:
        state: The state of the run.
        is_needed: Whether the student's own loss has a weight in this batch.

    Raises:
        ConfigError: If the loss is needed.
    """
    outputs = state.outputs
    if not isinstance(outputs, MutableMapping) or 'loss' in outputs:
        return
    if is_needed:
        raise ConfigError(
            'The student has no loss of its own: its output, with the keys '
            f'{sorted(map(str, outputs))}, has no `loss` (an encoder, or a batch without labels). To train it by its '
            'teachers alone give org_loss_weight=0 and leave start_dur and end_dur as they are.'
        )
    device = next((value.device for value in outputs.values() if isinstance(value, Tensor)), None)
    outputs['loss'] = torch.zeros((), device=device)
