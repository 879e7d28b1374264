"""The devices that models are timed on: their availability, synchronisation, memory and description."""

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
from typing_extensions import override

from composer_kd.bench.memory import CudaPeak, PeakMemory, ResidentPeak

__all__ = ['DEVICES', 'Cpu', 'Cuda', 'Device', 'Mps', 'Xla', 'present']

Call = Callable[..., Any]

_CGROUP = pathlib.Path('/sys/fs/cgroup')


class Device(abc.ABC):
    """A device that models run on.

    Attributes:
        name: Its name in ``--devices`` and in :class:`~composer_kd.bench.Setting`.
        precisions: The precisions that are timed by default: those that the device computes fast.
        absent: The reason in error messages if the device is not available.
    """

    name: str
    precisions: tuple[str, ...] = ('fp32', 'bf16')
    absent: str

    @abc.abstractmethod
    def available(self) -> bool:
        """Whether this machine has the device. Never raises."""

    @property
    def torch_device(self) -> torch.device:
        """The device as a ``torch.device``."""
        return torch.device(self.name)

    def thread_counts(self) -> list[int | None]:
        """The numbers of CPU threads to time with by default; ``[None]`` for devices other than the CPU."""
        return [None]

    def synchronize(self) -> None:
        """Waits until the device has finished all submitted work."""
        return None

    def clock(self) -> float:
        """Waits for the device, then returns the time in seconds."""
        self.synchronize()
        return time.perf_counter()

    def complete(self, call: Call) -> Call:
        """Wraps a call so that the device starts on its work at once; most devices need no wrapper."""
        return call

    def memory(self) -> PeakMemory | None:
        """Returns a meter of the device's peak memory; ``None`` if there is none."""
        return None

    def growth(self, call: Callable[[], Any]) -> int | None:
        """Runs a call and returns its peak memory in bytes beyond the memory in use before; ``None`` if unknown."""
        memory = self.memory()
        self.synchronize()
        if memory is not None:
            memory.start()
        call()
        self.synchronize()
        return None if memory is None else memory.growth()

    def free_bytes(self) -> int | None:
        """The free memory in bytes; ``None`` if running out of memory on the device is a recoverable error."""
        return None

    def forget(self) -> None:
        """Releases cached memory. Never raises, even after an error on the device."""
        return None

    @contextlib.contextmanager
    def threads(self, count: int | None) -> Iterator[None]:
        """A context in which operators use ``count`` CPU threads (``None``: no change); then restores it."""
        before = torch.get_num_threads()
        try:
            if count is not None:
                torch.set_num_threads(count)
            yield
        finally:
            torch.set_num_threads(before)

    def describe(self) -> dict[str, Any]:
        """Describes the device and its libraries, by name, for the environment of a benchmark."""
        return {}


class Cpu(Device):
    """The processor, timed with one thread and with as many as this process has physical cores."""

    name = 'cpu'
    absent = ''

    @override
    def available(self) -> bool:
        return True

    @override
    def thread_counts(self) -> list[int | None]:
        return list(dict.fromkeys((1, cores())))

    @override
    def memory(self) -> PeakMemory | None:
        return ResidentPeak()

    @override
    def free_bytes(self) -> int | None:
        """The memory that is left before the system kills the process, without an error from torch."""
        import psutil

        free = int(psutil.virtual_memory().available)
        with contextlib.suppress(OSError, ValueError, KeyError):  # a container may have a lower limit
            limit, used = (int((_CGROUP / name).read_text()) for name in ('memory.max', 'memory.current'))
            lines = (_CGROUP / 'memory.stat').read_text().splitlines()
            parts = {name: int(value) for name, value in (line.split() for line in lines)}
            # Cached files count as used, but the system frees them on demand.
            free = min(free, limit - used + parts['inactive_file'] + parts['active_file'])
        return free


class Cuda(Device):
    """The current NVIDIA GPU, or AMD GPU if torch was built for ROCm."""

    name = 'cuda'
    precisions = ('fp32', 'bf16', 'fp16')
    absent = 'torch sees no CUDA device'

    @override
    def available(self) -> bool:
        return torch.cuda.is_available()

    @override
    def synchronize(self) -> None:
        torch.cuda.synchronize()

    @override
    def memory(self) -> PeakMemory | None:
        return CudaPeak(self.torch_device)

    @override
    def forget(self) -> None:
        with contextlib.suppress(RuntimeError):  # after some errors every call to the GPU fails
            torch.cuda.empty_cache()

    @override
    def describe(self) -> dict[str, Any]:
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

    @override
    def available(self) -> bool:
        return torch.backends.mps.is_available()

    @override
    def synchronize(self) -> None:
        torch.mps.synchronize()

    @override
    def forget(self) -> None:
        with contextlib.suppress(RuntimeError):
            torch.mps.empty_cache()


class Xla(Device):
    """A TPU, through ``torch_xla``."""

    name = 'xla'
    absent = 'torch_xla is not installed, or finds no device'

    @override
    def available(self) -> bool:
        if importlib.util.find_spec('torch_xla') is None:
            return False
        try:
            return self.torch_device.type == 'xla'
        except Exception:  # its runtime raises errors of any type without a TPU
            return False

    @property
    @override
    def torch_device(self) -> torch.device:
        return _xla_model().xla_device()

    @override
    def synchronize(self) -> None:
        """Executes the recorded graph, and waits for it."""
        _xla_model().mark_step()
        _xla_model().wait_device_ops()

    @override
    def complete(self, call: Call) -> Call:
        """Ends the recorded graph after each call; otherwise several calls would accumulate in one graph."""
        model = _xla_model()

        def marked(*tensors: Any) -> Any:
            answer = call(*tensors)
            model.mark_step()
            return answer

        return marked


DEVICES: dict[str, Device] = {device.name: device for device in (Cpu(), Cuda(), Mps(), Xla())}
"""All devices by name, including those that this machine lacks."""


def present() -> list[str]:
    """Lists the names of the devices of this machine, the CPU first.

    Example:
        >>> present()[0]
        'cpu'
    """
    return [name for name, device in DEVICES.items() if device.available()]


def cores() -> int:
    """The number of physical cores that this process may use."""
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
