"""Process-wide settings and output of a run: hides expected warnings, and keeps freed memory for reuse."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from composer.utils import dist

from composer_kd.presentation.console import terminal
from composer_kd.presentation.speech import is_quiet

__all__ = ['keep_freed_memory', 'say', 'without_remarks']

# The beginnings of expected warnings; all other warnings are shown.
_REMARKS = (
    'No optimizer was specified',  # an evaluation needs no optimizer
    'Cannot split tensor of length',  # the last batch of an epoch is smaller than the others
    'pkg_resources is deprecated',
    'The profiler is enabled',  # the user requested it
)


@contextmanager
def without_remarks() -> Iterator[None]:
    """Hides expected and harmless warnings of Composer while the block runs.

    Example:
        >>> with without_remarks():
        ...     warnings.warn('No optimizer was specified. Defaulting to ...')
    """
    with warnings.catch_warnings():
        for remark in _REMARKS:
            warnings.filterwarnings('ignore', message=remark)
        yield


# Parameters of glibc's mallopt(3), with values that a training step does not exceed.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD, _M_TOP_PAD = -3, -1, -2


_SETTINGS = {_M_MMAP_THRESHOLD: 2**30, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26}


def keep_freed_memory() -> bool:
    """Makes glibc's allocator keep freed memory for reuse, as torch's allocator does on a GPU.

    The student's activations stay in memory during the teacher's forward pass, so memory use rises and falls by the
    teacher's activations in every step. By default, freed memory returns to the system each time and is allocated again
    page by page, which takes a large part of the step if the teacher's activations are large
    (``benchmarks/results/step.md``). With this setting, the memory of the process stays at its peak. For the same
    effect in your own scripts, set the environment variables ``MALLOC_MMAP_THRESHOLD_=1073741824``,
    ``MALLOC_TRIM_THRESHOLD_=2147483647`` and ``MALLOC_TOP_PAD_=67108864``.

    Returns:
        Whether the setting was applied: on Linux with glibc, if torch has no GPU.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if sys.platform != 'linux' or torch.cuda.is_available():
        return False
    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc
        mallopt = ctypes.CDLL('libc.so.6').mallopt
        # Old versions reject the first parameter; the others without it would be harmful.
        return all(mallopt(name, value) == 1 for name, value in _SETTINGS.items())
    return False


def say(what: Any) -> None:
    """Prints a line or a table on the console of rank 0; tables alone if it is to be quiet.

    Example:
        >>> say('trained')
        trained
    """
    if dist.get_global_rank() == 0 and not (is_quiet() and isinstance(what, str)):
        terminal().print(what, highlight=False, markup=False, soft_wrap=isinstance(what, str))
