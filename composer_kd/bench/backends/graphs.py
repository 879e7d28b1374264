"""Graphs that need no Python code of the model: TorchScript and ``torch.export``."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from composer_kd.bench.backends.base import Backend, Call, Target
from composer_kd.errors import ConfigError

__all__ = ['Export', 'TorchScript']


class TorchScript(Backend):
    """``torch.jit``: traced and frozen, as C++ programs load it."""

    name = 'torchscript'
    per_device = True  # a trace fixes where tensors are made, such as the first state of an LSTM

    def save(self, module: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
        """Traces the module and folds its weights into the graph."""
        _quietly(_trace, module, inputs, file)

    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        """Reads the graph."""
        return _quietly(torch.jit.load, str(file), map_location=target.device)


class Export(Backend):
    """``torch.export``: the graph of PyTorch 2, run operator by operator."""

    name = 'export'
    suffix = '.pt2'

    def save(self, module: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
        """Exports the module with a free batch size."""
        from composer_kd.deploy.formats import to_torch_export

        to_torch_export(module, inputs, file)

    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        """Reads the program."""
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
    """The tracer warns of its age, and of graphs fixed to the examples: wrong answers show in the output match."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return call(*arguments, **options)
