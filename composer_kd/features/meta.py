"""Models on torch's meta device, where shapes are propagated without computation."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

__all__ = ['as_in_evaluation', 'on_meta', 'to_device']


def on_meta(module: nn.Module) -> nn.Module:
    """Copies a module to the meta device, without weights and without hooks."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device='meta')
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    logger = vars(module).get('logger')  # Composer's logger, which refers to the whole run, is not copied
    memo[id(logger)] = logger
    twin = copy.deepcopy(module, memo)
    for part in twin.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return twin


@contextlib.contextmanager
def as_in_evaluation(model: nn.Module) -> Iterator[torch.device]:
    """Puts a model in eval mode, yields its device, and restores the mode of every submodule."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield next(iter((*model.parameters(), *model.buffers(), torch.empty(0)))).device
    finally:
        for part, training in modes:
            part.training = training


def to_device(batch: Any, device: Any) -> Any:
    """Moves the tensors of a batch to a device."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)
