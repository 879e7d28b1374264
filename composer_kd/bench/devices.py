"""The devices that a model can be timed on: how each is waited for, and how its memory is measured."""

from __future__ import annotations

import abc
import contextlib
import importlib.util
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from composer_kd.bench.memory import CudaPeak, PeakMemory, ResidentPeak

__all__ = ['DEVICES', 'Cpu', 'Cuda', 'Device', 'Mps', 'Xla', 'present']

Call = Callable[..., Any]

_CGROUP = pathlib.Path('/sys/fs/cgroup')


class Device(abc.ABC):
    """Where models run.

    Attributes:
        name: As in ``--devices`` and in :class:`~composer_kd.bench.Setting`.
        precisions: What it is timed in unless one asks for others: those that it is quick in.
        absent: What to say where it is not there.
    """

    name: str
    precisions: tuple[str, ...] = ('fp32', 'bf16')
    absent: str

    @abc.abstractmethod
    def available(self) -> bool:
        """Whether this machine has one. Never raises."""

    @property
    def torch_device(self) -> torch.device:
        """The same as torch means it."""
        return torch.device(self.name)

    def thread_counts(self) -> list[int | None]:
        """How many threads to time it with."""
        return [None]

    def synchronize(self) -> None:
        """Waits until all that was asked of it is done."""
        return None

    def clock(self) -> float:
        """The time in seconds, once all that was asked of the device is done."""
        self.synchronize()
        return time.perf_counter()

    def complete(self, call: Call) -> Call:
        """Adds to a call what makes the device begin with it."""
        return call

    def memory(self) -> PeakMemory | None:
        """Counts its memory; None where nothing does."""
        return None

    def growth(self, call: Callable[[], Any]) -> int | None:
        """The most bytes that a call held at once, beyond what was held before; None where that cannot be told."""
        memory = self.memory()
        self.synchronize()
        if memory is not None:
            memory.start()
        call()
        self.synchronize()
        return None if memory is None else memory.growth()

    def free_bytes(self) -> int | None:
        """What the device can still give; None where asking for too much raises an error that one can go on after."""
        return None

    def forget(self) -> None:
        """Gives back memory that is kept for later use. Never raises, whatever befell the device."""
        return None

    @contextlib.contextmanager
    def threads(self, count: int | None) -> Iterator[None]:
        """Sets the number of CPU threads of an operator, and sets it back."""
        before = torch.get_num_threads()
        try:
            if count is not None:
                torch.set_num_threads(count)
            yield
        finally:
            torch.set_num_threads(before)

    def describe(self) -> dict[str, Any]:
        """What a reader must know of it."""
        return {}


class Cpu(Device):
    """The processor, with one thread and with all of them."""

    name = 'cpu'
    absent = ''

    def available(self) -> bool:
        """It is always there."""
        return True

    def thread_counts(self) -> list[int | None]:
        """One, and as many as this process has physical cores."""
        return list(dict.fromkeys((1, cores())))

    def memory(self) -> PeakMemory | None:
        """That of the process, as far as the system tells it, which Linux does."""
        return ResidentPeak()

    def free_bytes(self) -> int | None:
        """What the system can give before it kills the process, where torch would not get to raise anything."""
        import psutil

        free = int(psutil.virtual_memory().available)
        with contextlib.suppress(OSError, ValueError, KeyError):  # a container may have less
            limit, used = (int((_CGROUP / name).read_text()) for name in ('memory.max', 'memory.current'))
            lines = (_CGROUP / 'memory.stat').read_text().splitlines()
            parts = {name: int(value) for name, value in (line.split() for line in lines)}
            # Files that were read count as used, and give way to whoever needs the memory.
            free = min(free, limit - used + parts['inactive_file'] + parts['active_file'])
        return free


class Cuda(Device):
    """The current NVIDIA GPU, or an AMD one where torch was built for it."""

    name = 'cuda'
    precisions = ('fp32', 'bf16', 'fp16')
    absent = 'torch sees no CUDA device'

    def available(self) -> bool:
        """Whether torch sees one."""
        return torch.cuda.is_available()

    def synchronize(self) -> None:
        """Waits for all streams of the GPU."""
        torch.cuda.synchronize()

    def memory(self) -> PeakMemory | None:
        """What torch's allocator gave away."""
        return CudaPeak(self.torch_device)

    def forget(self) -> None:
        """Empties torch's cache."""
        with contextlib.suppress(RuntimeError):  # after some errors every call to the GPU fails
            torch.cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        """The GPU and the libraries that run on it."""
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        cudnn = torch.backends.cudnn.version()
        return {
            'gpu': properties.name,
            'gpu memory': f'{properties.total_memory / 2**30:.1f} GiB',
            'gpu driver': _driver(),
            'cuda': torch.version.cuda or getattr(torch.version, 'hip', None) or '',
            'cudnn': str(cudnn) if cudnn else '',
            'tf32': f'matmul {torch.backends.cuda.matmul.allow_tf32}, cudnn {torch.backends.cudnn.allow_tf32}',
        }


class Mps(Device):
    """The GPU of an Apple processor."""

    name = 'mps'
    precisions = ('fp32', 'fp16')
    absent = 'torch sees no Apple GPU'

    def available(self) -> bool:
        """Whether torch sees one."""
        return torch.backends.mps.is_available()

    def synchronize(self) -> None:
        """Waits for the GPU."""
        torch.mps.synchronize()

    def forget(self) -> None:
        """Empties torch's cache."""
        with contextlib.suppress(RuntimeError):
            torch.mps.empty_cache()


class Xla(Device):
    """A TPU, through ``torch_xla``."""

    name = 'xla'
    absent = 'torch_xla is not installed, or finds no device'

    def available(self) -> bool:
        """Whether ``torch_xla`` is installed and finds a device."""
        if importlib.util.find_spec('torch_xla') is None:
            return False
        try:
            return self.torch_device.type == 'xla'
        except Exception:  # whatever its runtime raises where there is no TPU
            return False

    @property
    def torch_device(self) -> torch.device:
        """The device that ``torch_xla`` gives."""
        return _xla_model().xla_device()

    def synchronize(self) -> None:
        """Runs what was recorded, and waits for it."""
        _xla_model().mark_step()
        _xla_model().wait_device_ops()

    def complete(self, call: Call) -> Call:
        """Ends the recorded graph after each call: else a block of calls would be one graph that is never run."""
        model = _xla_model()

        def marked(*tensors: Any) -> Any:
            answer = call(*tensors)
            model.mark_step()
            return answer

        return marked


DEVICES: dict[str, Device] = {device.name: device for device in (Cpu(), Cuda(), Mps(), Xla())}
"""All devices by name, there or not."""


def present() -> list[str]:
    """The devices of this machine, the CPU first.

    Example:
        >>> present()[0]
        'cpu'
    """
    return [name for name, device in DEVICES.items() if device.available()]


def cores() -> int:
    """The physical cores that this process may use."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def _driver() -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)
    except Exception:  # not installed, or no NVIDIA driver
        file = pathlib.Path('/proc/driver/nvidia/version')
        return file.read_text(encoding='utf-8').splitlines()[0] if file.is_file() else ''


def _xla_model() -> Any:
    return importlib.import_module('torch_xla.core.xla_model')
