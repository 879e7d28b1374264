"""Backends that run a graph without the Python code of the model: TorchScript and ``torch.export``."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from composer_kd.bench.backends.base import Backend, Call, Target
from composer_kd.errors import ConfigError

__all__ = ['Export', 'TorchScript']


class TorchScript(Backend):
    """Runs a traced and frozen TorchScript graph, which C++ programs can load."""

    name = 'torchscript'
    per_device = True  # a trace fixes the device of new tensors, such as the initial state of an LSTM

    @override
    def save(self, module: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
        """Traces the module, and folds its weights into the graph."""
        _quietly(_trace, module, inputs, file)

    @override
    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        return _quietly(torch.jit.load, str(file), map_location=target.device)


class Export(Backend):
    """Runs a ``torch.export`` graph operator by operator."""

    name = 'export'
    suffix = '.pt2'

    @override
    def save(self, module: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
        """Exports the module with a dynamic batch size."""
        from composer_kd.deploy.formats import to_torch_export

        to_torch_export(module, inputs, file)

    @override
    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        if not hasattr(torch, 'export') or not hasattr(torch.export, 'load'):
            raise ConfigError(f'torch {torch.__version__} has no torch.export.load')
        program = torch.export.load(file)
        if target.device.type != 'cpu':
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, target.device)
        return program.module()


def _trace(module: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
    with torch.no_grad():
        traced: Any = torch.jit.trace(module, inputs, check_trace=False)
        torch.jit.save(torch.jit.freeze(traced.eval()), str(file))


def _quietly(call: Any, *arguments: Any, **options: Any) -> Any:
    """Calls without warnings: of deprecation, and of constants in the trace, whose effects the output match shows."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return call(*arguments, **options)
