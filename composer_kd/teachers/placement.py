"""Where a teacher runs: it is moved to the run's device, unless a library has placed its parts already."""

from __future__ import annotations

import torch
from composer.devices import Device
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from composer_kd.errors import TeacherError
from composer_kd.features.meta import to_evaluation

__all__ = ['is_managed', 'is_placed', 'is_sharded', 'place']

# The marks that accelerate leaves on modules whose inputs it moves, and transformers on weights of bitsandbytes.
_MARKS = ('_hf_hook', 'is_loaded_in_8bit', 'is_loaded_in_4bit')


def place(module: nn.Module, device: Device, name: str) -> None:
    """Moves a module to a device, unless it is placed already, freezes it, and puts it in eval mode.

    Args:
        module: The module of a teacher, or its input adapter.
        device: The device of the run.
        name: The teacher's name, for the error.

    Raises:
        TeacherError: If weights have no data.
    """
    if not is_placed(module):
        empty = next((key for key, tensor in module.named_parameters() if tensor.device.type == 'meta'), None)
        if empty is not None:
            raise TeacherError(
                f'The teacher {name!r} has no weights: {empty!r} is on the meta device. Load them first '
                '(FrozenTeacher(model.to_empty(device="cpu"), checkpoint=...))'
            )
        device.module_to_device(module)
    to_evaluation(module)
    for parameter in module.parameters():  # one by one, because a ScriptModule has no requires_grad_
        parameter.requires_grad_(False)


def is_placed(module: nn.Module) -> bool:
    """Whether the parts of a module stay where they are.

    They do if accelerate moves their inputs or loads their weights when they run (``device_map``, offloading), if they
    hold weights of bitsandbytes, if the weights are sharded over processes, or lie on several accelerators.

    Example:
        >>> is_placed(nn.Linear(2, 3))
        False
    """
    if is_managed(module):
        return True
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    accelerators = {tensor.device for tensor in tensors} - {torch.device('cpu'), torch.device('meta')}
    return len(accelerators) > 1 or any(isinstance(tensor, DTensor) for tensor in tensors)


def is_managed(module: nn.Module) -> bool:
    """Whether accelerate or bitsandbytes looks after weights of a module, which may be elsewhere, or be rewritten.

    Example:
        >>> is_managed(nn.Linear(2, 3))
        False
    """
    return any(getattr(part, mark, False) for part in module.modules() for mark in _MARKS)


def is_sharded(module: nn.Module | None) -> bool:
    """Whether weights of a module are sharded over processes, which must all run it together.

    Example:
        >>> is_sharded(nn.Linear(2, 3))
        False
    """
    wrapped = module is not None and any(hasattr(part, '_fsdp_wrapped_module') for part in module.modules())
    return wrapped or (module is not None and any(isinstance(one, DTensor) for one in module.parameters()))
