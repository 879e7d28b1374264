"""The interface of backends: each saves a model in a form of its own, and loads and runs that form."""

from __future__ import annotations

import abc
import contextlib
import importlib.util
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.features.generation import generates

__all__ = ['Backend', 'Call', 'Target', 'writer_in']

Call = Callable[..., Tensor]
"""A loaded model: takes tensors on the device and returns the logits."""


@dataclass(frozen=True)
class Target:
    """The device and threads that a model is loaded for.

    Args:
        device: The device.
        threads: The number of CPU threads of an operator; ``None`` on other devices.
    """

    device: torch.device
    threads: int | None = None


class Backend(abc.ABC):
    """A compiler or runtime that runs models.

    Attributes:
        name: Its name in ``--backends`` and in :class:`~composer_kd.bench.Setting`.
        precisions: The precisions that it supports.
        devices: The names of the devices that it supports.
        suffix: The suffix of the file that it loads.
        packages: The packages that it needs.
        extra: The extra of composer_kd that installs these packages.
        slow_start: Whether its first forward pass on a CPU takes minutes; it then runs there only on request.
        of_torch: Whether torch allocates its memory on a GPU.
        recorded: Whether it runs a graph that was recorded with one length of text; answers at others are then compared
            with those in eager mode.
        per_device: Whether its files are specific to a device; ``save`` then gets module and inputs on that device.
    """

    name: str
    precisions: tuple[str, ...] = ('fp32', 'bf16', 'fp16')
    devices: tuple[str, ...] = ('cpu', 'cuda', 'mps')
    suffix: str = '.pt'
    packages: tuple[str, ...] = ()
    extra: str = ''
    slow_start: bool = False
    of_torch: bool = True
    per_device: bool = False
    recorded: bool = True

    @abc.abstractmethod
    def save(self, module: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
        """Writes a model in the form that ``load`` reads.

        Args:
            module: Takes tensors and returns logits: in eval mode, in the precision of the setting, on the CPU unless
                ``per_device``. It may be modified.
            inputs: Example inputs with two samples or more, on the module's device.
            file: The file to write.
        """

    @abc.abstractmethod
    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        """Loads a model that ``save`` wrote.

        Args:
            file: The file that ``save`` wrote.
            module: A module of the same structure, for backends whose file contains weights only. It may be modified.
            target: The device and threads to run on.

        Returns:
            The loaded model.
        """

    def notes(self, module: nn.Module) -> list[str]:
        """Remarks on this model in this backend, shown with the results."""
        return []

    def forgetful(self, call: Call) -> Call:
        """Returns the model in a form that frees its memory after each call, to measure the memory of one call."""
        return call

    def writer(self, call: Call) -> nn.Module:
        """Returns the loaded model of transformers whose ``generate`` writes texts, with a cache of keys and values.

        Args:
            call: The loaded model.

        Raises:
            ConfigError: If this form has no such cache; the message says why.
        """
        raise ConfigError(
            f'{self.name} runs a graph from whole texts to logits, without the cache of keys and values, so each new '
            'token would take the whole text anew'
        )

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """A context in which models of this backend are loaded and run."""
        yield

    def loading(self, target: Target, folder: pathlib.Path) -> contextlib.AbstractContextManager[object]:
        """A context for loading one model and running its first forward pass, which are timed.

        Args:
            target: The device and threads to run on.
            folder: A folder for temporary files, deleted when the benchmark ends.
        """
        return contextlib.nullcontext()

    def require(self) -> None:
        """Checks that the required packages are installed.

        Raises:
            ConfigError: If a package is missing; the message names the extra to install.
        """
        missing = [package for package in self.packages if importlib.util.find_spec(package) is None]
        if missing:
            raise ConfigError(f"{', '.join(missing)} not installed: pip install 'composer_kd[{self.extra}]'")


def writer_in(call: Call) -> nn.Module:
    """Finds the model of transformers that writes, inside the modules of a backend that runs them as they are.

    Args:
        call: The loaded model.

    Raises:
        ConfigError: If the call is no module, as on a device that wraps it.
    """
    modules = call.modules() if isinstance(call, nn.Module) else ()
    found = next((module for module in modules if generates(module)), None)
    if found is None:
        raise ConfigError('the cache of keys and values has another size at each token, and this device compiles each')
    return found
