"""Which models a student can be cut out of, and what to do about the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.distributed.tensor import DTensor

from composer_kd.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ['suitable']

_QUANTISED = ('bitsandbytes', 'torchao', 'auto_gptq', 'gptqmodel', 'awq', 'quanto', 'optimum')


def suitable(model: Any) -> PreTrainedModel:
    """Refuses what is no whole model of transformers in its own weights.

    Args:
        model: What was given as the teacher's network.

    Returns:
        The model.

    Raises:
        ConfigError: If it is of another kind, wrapped, quantised, sharded, spread over devices, or has adapters.
    """
    from transformers import PreTrainedModel

    if isinstance(model, nn.Module) and any(type(part).__module__.startswith('peft.') for part in model.modules()):
        raise ConfigError(
            'the teacher has adapters (PEFT), which are no part of its layers: merge them first, '
            'teacher.merge_and_unload(), or take the model below them, teacher.unload()'
        )
    if not isinstance(model, PreTrainedModel):
        raise ConfigError(
            'expected a model of transformers, or a composer.models.HuggingFaceModel around one, got '
            f'{type(model).__name__}; of a wrapper give the model inside, before a Trainer wraps it'
        )
    _check_weights(model)
    return model


def _check_weights(model: PreTrainedModel) -> None:
    packages = {type(part).__module__.partition('.')[0] for part in model.modules()}
    parameters = list(model.parameters())
    if (
        getattr(model, 'is_quantized', False)
        or packages.intersection(_QUANTISED)
        or any('quantized' in type(part).__module__ for part in model.modules())
        or not all(parameter.is_floating_point() for parameter in parameters)
    ):
        raise ConfigError(
            'the teacher is quantised, and its layers cannot be copied as weights to train: load it without a '
            'quantization_config, and quantise the trained student'
        )
    is_sharded = any(isinstance(parameter, DTensor) or hasattr(parameter, 'ds_id') for parameter in parameters)
    if is_sharded or any('_fsdp_wrapped_module' in name for name, _ in model.named_modules()):
        raise ConfigError('the teacher is sharded: cut the student before a Trainer, or DeepSpeed, shards the teacher')
    devices = {parameter.device for parameter in parameters}
    if len(devices) > 1 or any(device.type == 'meta' for device in devices):
        raise ConfigError(
            f'expected a teacher on one device, got {", ".join(sorted(map(str, devices)))}: load it without device_map'
        )
