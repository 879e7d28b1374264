"""Eager mode and ``torch.compile``; both load a state dict."""

from __future__ import annotations

import contextlib
import functools
import io
import pathlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from composer_kd.bench.backends.base import Backend, Call, Target, writer_in
from composer_kd.errors import ConfigError

__all__ = ['Compile', 'Eager']

RECOMPILATIONS = 64


class Eager(Backend):
    """Runs the module in eager mode."""

    name = 'eager'
    devices: tuple[str, ...] = ('cpu', 'cuda', 'mps', 'xla')
    recorded = False

    @override
    def save(self, module: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
        torch.save(module.state_dict(), file)

    @override
    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        # Just written by `save`, into a new folder that belongs to this user alone (`tempfile`): nobody else's file can
        # stand there. It may contain objects other than tensors (extra states).
        weights = torch.load(file, map_location='cpu', weights_only=False)
        module.load_state_dict(weights)
        return module.to(target.device)

    @override
    def writer(self, call: Call) -> nn.Module:
        return writer_in(call)


class Compile(Eager):
    """Runs ``torch.compile`` with its default compiler, Inductor."""

    name = 'compile'
    devices = ('cpu', 'cuda', 'mps')
    slow_start = True

    @override
    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        """Reads the state dict. The first forward pass compiles; other batch sizes compile once or twice more."""
        if not hasattr(torch, 'compile'):
            raise ConfigError(f'torch {torch.__version__} has no torch.compile')
        return torch.compile(_own_code(super().load(file, module, target)))

    @override
    def loading(self, target: Target, folder: pathlib.Path) -> contextlib.AbstractContextManager[object]:
        """Uses an empty cache, because entries of other models and earlier runs would shorten the load time."""
        _start_compiler(target.device)
        from torch._inductor import utils

        name = next((name for name in ('fresh_cache', 'fresh_inductor_cache') if hasattr(utils, name)), None)
        return contextlib.nullcontext() if name is None else getattr(utils, name)(dir=str(folder), delete=False)

    @override
    def writer(self, call: Call) -> nn.Module:
        raise ConfigError('compile would compile anew for each length of the cache of keys and values')

    @override
    def notes(self, module: nn.Module) -> list[str]:
        return ['load time includes compiling for batch 1']

    @contextlib.contextmanager
    @override
    def session(self) -> Iterator[None]:
        """Clears compiled code, and raises the limit on recompilations, after which torch falls back to eager."""
        config: Any = torch._dynamo.config
        wanted = {'recompile_limit': RECOMPILATIONS, 'cache_size_limit': RECOMPILATIONS}  # the new name, the old one
        changes: dict[str, int] = {}
        for name, value in wanted.items():
            if hasattr(config, name) and not changes:
                changes[name] = value
        torch.compiler.reset()
        try:
            with config.patch(**changes):
                yield
        finally:
            torch.compiler.reset()


@functools.cache
def _start_compiler(device: torch.device) -> None:
    """Initialises the compiler, which takes seconds that would count as load time of the first model."""
    with contextlib.redirect_stderr(io.StringIO()):  # it warns about CUDA_HOME on machines without a GPU
        torch.compile(lambda tensor: 2 * tensor)(torch.ones(3, device=device))


def _own_code(module: Any) -> Call:
    """Wraps the module in a function with its own code object, to which compiled code belongs.

    Otherwise models of one class would share compiled code and the limit on recompilations.
    """

    def call(*tensors: Tensor) -> Tensor:
        return module(*tensors)

    return types.FunctionType(call.__code__.replace(), call.__globals__, 'call', None, call.__closure__)
