"""torch as it is, and ``torch.compile``: both load a state dict."""

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

from composer_kd.bench.backends.base import Backend, Call, Target
from composer_kd.errors import ConfigError

__all__ = ['Compile', 'Eager']

RECOMPILATIONS = 64


class Eager(Backend):
    """The module itself."""

    name = 'eager'
    devices: tuple[str, ...] = ('cpu', 'cuda', 'mps', 'xla')

    def save(self, module: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
        """Writes the state dict."""
        torch.save(module.state_dict(), file)

    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        """Reads the state dict into the module."""
        # Written a moment ago by `save`, and it may hold more than tensors: extra states.
        weights = torch.load(file, map_location='cpu', weights_only=False)
        module.load_state_dict(weights)
        return module.to(target.device)


class Compile(Eager):
    """``torch.compile`` with its own compiler, Inductor."""

    name = 'compile'
    devices = ('cpu', 'cuda', 'mps')
    slow_start = True

    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        """Reads the state dict; the first answer compiles. Other batch sizes compile once or twice more."""
        if not hasattr(torch, 'compile'):
            raise ConfigError(f'torch {torch.__version__} has no torch.compile')
        return torch.compile(_own_code(super().load(file, module, target)))

    def loading(self, target: Target, folder: pathlib.Path) -> contextlib.AbstractContextManager[object]:
        """Compiles anew: what is in the caches of other models and of earlier days would shorten the load time."""
        _start_compiler(target.device)
        from torch._inductor import utils

        name = next((name for name in ('fresh_cache', 'fresh_inductor_cache') if hasattr(utils, name)), None)
        return contextlib.nullcontext() if name is None else getattr(utils, name)(dir=str(folder), delete=False)

    def notes(self, module: nn.Module) -> list[str]:
        """What the load time holds."""
        return ['load time includes compiling for batch 1']

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Begins without compiled code, and never goes back to eager in silence after many batch sizes."""
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
    """Loads and probes what the first one to compile would wait for: seconds that are no model's."""
    with contextlib.redirect_stderr(io.StringIO()):  # it remarks on CUDA_HOME where there is no GPU
        torch.compile(lambda tensor: 2 * tensor)(torch.ones(3, device=device))


def _own_code(module: Any) -> Call:
    """A function around the module whose code is its own: what is compiled belongs to a code object.

    Models of one class would share what the first of them compiled, and its limit.
    """

    def call(*tensors: Tensor) -> Tensor:
        return module(*tensors)

    return types.FunctionType(call.__code__.replace(), call.__globals__, 'call', None, call.__closure__)
