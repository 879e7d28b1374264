"""Leaves out remarks of Composer that are true, harmless, and repeated in every run."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ['keep_freed_memory', 'without_remarks']

# Each by its beginning; whatever else is warned of comes through.
_REMARKS = (
    'No optimizer was specified',  # nothing is trained when a checkpoint is evaluated
    'Cannot split tensor of length',  # the last batch of an epoch is smaller than the others
    'pkg_resources is deprecated',
    'The profiler is enabled',  # as was asked for
)


@contextmanager
def without_remarks() -> Iterator[None]:
    """Silences the remarks while the block runs.

    Example:
        >>> with without_remarks():
        ...     warnings.warn('No optimizer was specified. Defaulting to ...')
    """
    with warnings.catch_warnings():
        for remark in _REMARKS:
            warnings.filterwarnings('ignore', message=remark)
        yield


# Names of glibc's mallopt(3), and values that no training step exceeds by itself.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD, _M_TOP_PAD = -3, -1, -2


_SETTINGS = {_M_MMAP_THRESHOLD: 2**30, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26}


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep what is freed, as torch's own does on a GPU.

    While a teacher answers, the student's activations are held, so the process grows and shrinks by the teacher's at
    every step; by default the system takes the memory back each time, and hands it out anew page by page. Where a
    teacher's activations are large, this is a good part of the step (``benchmarks/results/step.md``). The process's
    memory then stays at its peak. In scripts of your own set ``MALLOC_MMAP_THRESHOLD_=1073741824``,
    ``MALLOC_TRIM_THRESHOLD_=2147483647`` and ``MALLOC_TOP_PAD_=67108864`` in the environment, which does the same.

    Returns:
        Whether it was done: on Linux with glibc, where torch has no GPU.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if sys.platform != 'linux' or torch.cuda.is_available():
        return False
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL('libc.so.6').mallopt
        # Old versions refuse the first; the others alone would do harm.
        return all(mallopt(name, value) == 1 for name, value in _SETTINGS.items())
    return False
