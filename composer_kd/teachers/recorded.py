"""Checks of modules that were recorded (TorchScript, ``torch.export``), whose mode is in the recording."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from composer_kd.errors import TeacherError

__all__ = ['answer_of_recorded', 'is_recorded']

_NOISE = 1e-2  # of the largest value: more than kernels differ from run to run, less than what dropout does


def is_recorded(model: nn.Module) -> bool:
    """Whether a model has a part whose graph was recorded.

    Example:
        >>> is_recorded(torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2))), is_recorded(nn.Linear(2, 3))
        (True, False)
    """
    return any(isinstance(part, (torch.jit.ScriptModule, torch.fx.GraphModule)) for part in model.modules())


def answer_of_recorded(model: nn.Module, call: Callable[[], Any], name: str) -> Any:
    """Calls a recorded model twice, to see whether it was recorded in eval mode.

    Args:
        model: The model.
        call: Calls it with a batch.
        name: The teacher's name, for the error.

    Returns:
        Its outputs.

    Raises:
        TeacherError: If the two answers differ (dropout), or a buffer changes (BatchNorm).
    """
    buffers = [(buffer, buffer._version) for buffer in model.buffers() if not buffer.is_inference()]
    outputs = call()
    first, second = ([x for x in tree_leaves(found) if isinstance(x, Tensor)] for found in (outputs, call()))
    if any(buffer._version != version for buffer, version in buffers) or any(map(_differ, first, second)):
        raise TeacherError(
            f'The teacher {name!r} was recorded in train mode, with dropout or BatchNorm at work, which eval() cannot '
            'change afterwards. Record it again after model.eval().'
        )
    return outputs


def _differ(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point() or one.shape != other.shape or not one.numel():
        return False
    return bool((one - other).abs().max() > _NOISE * one.abs().max())
