"""Runs models for a look at their shapes, which leaves them as they were: on torch's meta device or for real."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

__all__ = [
    'Mode',
    'as_in_evaluation',
    'as_in_training',
    'on_meta',
    'runs_original',
    'to_device',
    'to_evaluation',
    'without_draws',
]

Mode: TypeAlias = Callable[[nn.Module], contextlib.AbstractContextManager[torch.device]]
"""Puts a model in a mode, yields its device, and restores it: :func:`as_in_training`, :func:`as_in_evaluation`."""


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


def to_evaluation(model: nn.Module) -> None:
    """Puts a model in eval mode; a module of ``torch.export`` keeps the one mode in which its graph was recorded."""
    try:
        model.eval()
    except NotImplementedError:
        for part in model.modules():
            part.training = False


@contextlib.contextmanager
def as_in_evaluation(model: nn.Module) -> Iterator[torch.device]:
    """Puts a model in eval mode, yields its device, and restores the mode of every submodule."""
    modes = [(part, part.training) for part in model.modules()]
    to_evaluation(model)
    try:
        yield _device_of(model)
    finally:
        for part, training in modes:
            part.training = training


@contextlib.contextmanager
def as_in_training(model: nn.Module) -> Iterator[torch.device]:
    """Puts a model in train mode and yields its device; afterwards everything of the model is as it was.

    Restored are the mode, the attributes, parameters and buffers of every submodule, such as the statistics of a
    BatchNorm, counters and generators; what a list or another container holds is not.
    """
    parts = [(part, dict(vars(part)), dict(part._buffers)) for part in model.modules()]
    values = [value for _, attributes, _ in parts for value in attributes.values()]
    held = (*(value for value in values if isinstance(value, Tensor)), *model.parameters(), *model.buffers())
    tensors = [(tensor, tensor._version, tensor.detach().clone()) for tensor in held if not tensor.is_inference()]
    generators = [(value, value.get_state()) for value in values if isinstance(value, torch.Generator)]
    model.train()
    try:
        yield _device_of(model)
    finally:
        for part, attributes, buffers in parts:
            vars(part).clear()
            vars(part).update(attributes)
            part._buffers.clear()
            part._buffers.update(buffers)
        with torch.no_grad():
            for tensor, version, before in tensors:
                # Not all kernels count what they change: that of BatchNorm does not count its statistics.
                if tensor._version != version or not isinstance(tensor, nn.Parameter):
                    tensor.copy_(before)
        for generator, state in generators:
            generator.set_state(state)


@contextlib.contextmanager
def without_draws() -> Iterator[None]:
    """Restores the random states of torch, numpy and Python afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def _device_of(model: nn.Module) -> torch.device:
    """The device of the first weight that has data: of an offloaded model some have none."""
    tensors = (*model.parameters(), *model.buffers(), torch.empty(0))
    return next(tensor.device for tensor in tensors if tensor.device.type != 'meta')


def runs_original(model: nn.Module) -> bool:
    """Whether a copy would run parts of the original: a ``forward`` set on an instance, as accelerate does."""
    return any('forward' in vars(part) for part in model.modules())


def to_device(batch: Any, device: Any) -> Any:
    """Moves the tensors of a batch to a device."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)
