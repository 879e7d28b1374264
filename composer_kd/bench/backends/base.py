"""What a backend is: a form that a model is saved in, and how that form is run."""

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

__all__ = ['Backend', 'Call', 'Target']

Call = Callable[..., Tensor]
"""Takes tensors on the device, returns the logits."""


@dataclass(frozen=True)
class Target:
    """Where a model is to run.

    Args:
        device: The device.
        threads: CPU threads of an operator; None where the device is no CPU.
    """

    device: torch.device
    threads: int | None = None


class Backend(abc.ABC):
    """A way of running a model.

    Attributes:
        name: As in ``--backends`` and in :class:`~composer_kd.bench.Setting`.
        precisions: Those that it is made for.
        devices: Those that it is made for.
        suffix: Of the file that it loads.
        packages: What must be installed for it.
        extra: The extra of composer_kd that brings these packages.
        slow_start: Whether it takes minutes before its first answer on a CPU, so that there one must ask for it.
        of_torch: Whether torch allocates what it takes on a GPU.
        per_device: Whether what it saves is made for one device; ``save`` then gets module and examples there.
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

    @abc.abstractmethod
    def save(self, module: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
        """Writes a model in the form that ``load`` reads.

        Args:
            module: Tensors in, logits out: in eval mode, in its precision, on the CPU unless ``per_device``. It may be
                changed.
            inputs: Examples of its inputs: two samples or more, where the module is.
            file: Where to.
        """

    @abc.abstractmethod
    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        """Makes what was written run.

        Args:
            file: As ``save`` wrote it.
            module: A model of the same kind to put weights into, where the file holds nothing else. It may be changed.
            target: Where it is to run.

        Returns:
            What answers.
        """

    def notes(self, module: nn.Module) -> list[str]:
        """What a reader must know of this model run so."""
        return []

    def forgetful(self, call: Call) -> Call:
        """The same model, run so that it keeps no memory from one call to the next: what an answer takes shows then."""
        return call

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """What must hold while models of this backend are loaded and run."""
        yield

    def loading(self, target: Target, folder: pathlib.Path) -> contextlib.AbstractContextManager[object]:
        """What must hold while one model is loaded and answers for the first time, which is timed.

        Args:
            target: Where it is to run.
            folder: For files of its own, which go when the benchmark ends.
        """
        return contextlib.nullcontext()

    def require(self) -> None:
        """Makes sure that it is installed.

        Raises:
            ConfigError: Names the extra.
        """
        missing = [package for package in self.packages if importlib.util.find_spec(package) is None]
        if missing:
            raise ConfigError(f"{', '.join(missing)} not installed: pip install 'composer_kd[{self.extra}]'")
