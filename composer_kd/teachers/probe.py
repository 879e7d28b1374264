"""Learns the shape of a teacher's logits without running it: on the meta device, where nothing is computed."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from composer_kd.teachers.frozen import FrozenTeacher

__all__ = ['logits_shape']


def logits_shape(teacher: FrozenTeacher, batch: Any) -> torch.Size | None:
    """The shape of a teacher's logits for a batch.

    A copy of the teacher without weights, on torch's meta device, takes the batch's shapes through its layers. The
    teacher itself does not run, no memory for weights is taken, and no random number is drawn.

    Args:
        teacher: The teacher.
        batch: A batch of tensors on any device.

    Returns:
        The shape, or ``None`` for a model that cannot be traced so (one that looks at the values of its inputs).

    Example:
        >>> logits_shape(FrozenTeacher(nn.Linear(2, 3)), (torch.zeros(4, 2), torch.zeros(4)))
        torch.Size([4, 3])
    """
    # Anything may go wrong in a model that was not written for the meta device. Then its shape is checked when it first
    # answers for real.
    with contextlib.suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
        if 'forward' in vars(teacher.model):  # replaced on the instance: a copy would still call the original
            return None
        twin = copy.copy(teacher)
        twin.model = _on_meta(teacher.model)
        twin.forget_call()
        if isinstance(teacher.input_adapter, nn.Module):
            twin.input_adapter = _on_meta(teacher.input_adapter)
        return twin(tree_map(lambda leaf: leaf.to('meta') if isinstance(leaf, Tensor) else leaf, batch)).shape
    return None


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy whose tensors have shapes only, and whose hooks are gone."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device='meta')
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    twin = copy.deepcopy(module, memo)
    for part in twin.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return twin
