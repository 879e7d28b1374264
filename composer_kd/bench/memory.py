"""Meters of peak memory."""

from __future__ import annotations

import abc
import contextlib
import ctypes
import pathlib
import sys

import psutil
import torch
from typing_extensions import override

__all__ = ['CudaPeak', 'PeakMemory', 'ResidentPeak', 'peak_for']

_PROC = pathlib.Path('/proc/self')


class PeakMemory(abc.ABC):
    """Measures the peak memory after ``start()``.

    Attributes:
        source: A description of the memory that is measured.
        before: Bytes in use at ``start()``.
        forgets: Whether ``start()`` can reset the peak. If not, ``peak()`` covers the whole life of the process.
    """

    source: str
    before: int = 0
    forgets: bool = True

    @abc.abstractmethod
    def start(self) -> None:
        """Starts the measurement."""

    @abc.abstractmethod
    def peak(self) -> int:
        """The peak, in bytes."""

    def growth(self) -> int | None:
        """The peak minus the memory in use at ``start()``, in bytes; ``None`` if ``start()`` cannot reset the peak."""
        return max(0, self.peak() - self.before) if self.forgets else None


class CudaPeak(PeakMemory):
    """Measures the memory that torch allocates on a GPU.

    Args:
        device: The GPU.
    """

    source = 'what torch allocated on the GPU'

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @override
    def start(self) -> None:
        """Starts the measurement, and resets ``torch.cuda.max_memory_allocated``."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self.before = torch.cuda.memory_allocated(self._device)

    @override
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)


class ResidentPeak(PeakMemory):
    """Measures the resident memory of this process: all runtimes and scratch memory, but no data workers."""

    source = 'resident memory of the process'

    @override
    def start(self) -> None:
        # The allocator keeps freed memory (`keep_freed_memory`), and its reuse would hide growth: return it first.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL('libc.so.6').malloc_trim(0)
        try:
            (_PROC / 'clear_refs').write_text('5')  # resets the peak on Linux
        except OSError:
            self.forgets = False
        self.before = psutil.Process().memory_info().rss

    @override
    def peak(self) -> int:
        if self.forgets:
            return _high_water_mark()
        info = psutil.Process().memory_info()
        if hasattr(info, 'peak_wset'):  # Windows
            return int(info.peak_wset)
        import resource

        unit = 1 if sys.platform == 'darwin' else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_for(device: torch.device) -> PeakMemory:
    """Returns the meter of peak memory for a run on a device.

    Args:
        device: The device that the run trains on.

    Returns:
        On CUDA a meter of torch's allocations there, elsewhere of the resident memory of the process.
    """
    return CudaPeak(device) if device.type == 'cuda' else ResidentPeak()


def _high_water_mark() -> int:
    lines = (_PROC / 'status').read_text(encoding='ascii').splitlines()
    kilobytes = next(line for line in lines if line.startswith('VmHWM:')).split()[1]
    return int(kilobytes) * 1024
