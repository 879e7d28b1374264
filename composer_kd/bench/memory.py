"""The most memory that was held at once."""

from __future__ import annotations

import abc
import contextlib
import ctypes
import pathlib
import sys

import psutil
import torch

__all__ = ['CudaPeak', 'PeakMemory', 'ResidentPeak', 'peak_for']

_PROC = pathlib.Path('/proc/self')


class PeakMemory(abc.ABC):
    """Tells how much memory was held at most since ``start()``.

    Attributes:
        source: What is counted, in words.
        before: Bytes held at ``start()``.
        forgets: Whether what was held before ``start()`` can be told apart. If not, ``peak()`` is that of the process's
            whole life.
    """

    source: str
    before: int = 0
    forgets: bool = True

    @abc.abstractmethod
    def start(self) -> None:
        """Measures from now on."""

    @abc.abstractmethod
    def peak(self) -> int:
        """The most bytes held at once."""

    def growth(self) -> int | None:
        """``peak()`` minus what was held at ``start()``, in bytes; None where that cannot be told."""
        return max(0, self.peak() - self.before) if self.forgets else None


class CudaPeak(PeakMemory):
    """What torch allocated on a GPU.

    Args:
        device: The GPU.
    """

    source = 'what torch allocated on the GPU'

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        """Measures from now on; ``torch.cuda.max_memory_allocated`` starts again too."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self.before = torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        """The most bytes allocated at once."""
        return torch.cuda.max_memory_allocated(self._device)


class ResidentPeak(PeakMemory):
    """What this process held in main memory, without its data workers: of every runtime, and scratch memory too."""

    source = 'resident memory of the process'

    def start(self) -> None:
        """Measures from now on."""
        # What was freed and kept (`keep_freed_memory`) is not held: give it back, or nothing would seem to grow.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL('libc.so.6').malloc_trim(0)
        try:
            (_PROC / 'clear_refs').write_text('5')  # Linux forgets the peak
        except OSError:
            self.forgets = False
        self.before = psutil.Process().memory_info().rss

    def peak(self) -> int:
        """The most bytes resident at once."""
        if self.forgets:
            return _high_water_mark()
        info = psutil.Process().memory_info()
        if hasattr(info, 'peak_wset'):  # Windows
            return int(info.peak_wset)
        import resource

        unit = 1 if sys.platform == 'darwin' else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_for(device: torch.device) -> PeakMemory:
    """Chooses what to measure.

    Args:
        device: Where the run trains.

    Returns:
        On CUDA what torch allocates there, elsewhere the resident memory of the process.
    """
    return CudaPeak(device) if device.type == 'cuda' else ResidentPeak()


def _high_water_mark() -> int:
    lines = (_PROC / 'status').read_text(encoding='ascii').splitlines()
    kilobytes = next(line for line in lines if line.startswith('VmHWM:')).split()[1]
    return int(kilobytes) * 1024
