"""Dynamic quantisation to int8."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from composer_kd.bench.backends.base import Backend, Call, Target, writer_in
from composer_kd.errors import ConfigError

__all__ = ['Int8Dynamic']

_KINDS = {nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell}


class Int8Dynamic(Backend):
    """Quantises weights of linear and recurrent layers to int8, and their activations at each call.

    Convolutions stay in floating point. No calibration data is needed, so any model can be tried.
    """

    name = 'int8-dynamic'
    precisions = ('int8',)
    devices = ('cpu',)
    recorded = False

    @override
    def save(self, module: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
        """Writes the state dict of the quantised model."""
        torch.save(_quantised(module).state_dict(), file)

    @override
    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        """Quantises the module, and reads the state dict into it."""
        quantised = _quantised(module)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            # As in eager mode, nobody else's file can stand there; packed weights are objects other than tensors.
            quantised.load_state_dict(torch.load(file, weights_only=False))
        return quantised

    @override
    def writer(self, call: Call) -> nn.Module:
        return writer_in(call)

    @override
    def notes(self, module: nn.Module) -> list[str]:
        """The number of layers that are quantised."""
        return [f'{_count(_quantised(module))} of {_layers(module)} layers with weights in int8']


def _quantised(module: nn.Module) -> nn.Module:
    quantization: Any = getattr(torch.ao, 'quantization', None)
    if not hasattr(quantization, 'quantize_dynamic'):
        raise ConfigError(f'torch {torch.__version__} has no torch.ao.quantization.quantize_dynamic')
    if torch.backends.quantized.engine in (None, 'none'):
        raise ConfigError('torch was built without an engine for int8 on this processor')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of its deprecation
        quantised = quantization.quantize_dynamic(module, _KINDS, dtype=torch.qint8)
    if not _count(quantised):
        raise ConfigError('nothing to quantise: no linear or recurrent layer, and dynamic quantisation knows no others')
    return quantised


def _count(module: nn.Module) -> int:
    return sum(layer._get_name().startswith('DynamicQuantized') for layer in module.modules())


def _layers(module: nn.Module) -> int:
    """Counts the layers that multiply by weights: those with a parameter of two dimensions or more."""
    return sum(any(one.ndim > 1 for one in layer.parameters(recurse=False)) for layer in module.modules())
