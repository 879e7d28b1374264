"""Describes the machine and the versions of a benchmark, without host or user names."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from composer_kd.bench.devices import DEVICES, cores

__all__ = ['environment']

_PACKAGES = {'torch': 'torch', 'composer': 'mosaicml', 'onnxruntime': 'onnxruntime', 'composer_kd': 'composer_kd'}


def environment(devices: Iterable[str] = ('cpu',)) -> dict[str, Any]:
    """Describes the machine, its load and the installed versions.

    Args:
        devices: The devices that are measured, keys of ``DEVICES``.

    Returns:
        Plain values by name, for a JSON file: processor, memory, load, system, versions, a description of each device
        and the source of its memory values. Host name, user name and paths are left out.

    Example:
        >>> environment()['torch'] == torch.__version__
        True
    """
    import psutil

    memory = psutil.virtual_memory()
    facts = {
        'processor': _processor(),
        'architecture': platform.machine(),
        'instructions': torch.backends.cpu.get_cpu_capability(),
        'cores': psutil.cpu_count(logical=False) or 0,
        'logical processors': psutil.cpu_count() or 0,
        'cores of this process': cores(),
        'memory': f'{memory.total / 2**30:.1f} GiB',
        'free memory at start': f'{memory.available / 2**30:.1f} GiB',
        'load at start': _load(),
        'system': f'{platform.system()} {_kernel()}',
        'python': platform.python_version(),
        **{name: _version(package) for name, package in _PACKAGES.items()},
        'torch threads': torch.get_num_threads(),
        'float32 matmul precision': torch.get_float32_matmul_precision(),
    }
    for name in devices:
        with contextlib.suppress(RuntimeError, OSError):
            facts.update(DEVICES[name].describe())
        memory = DEVICES[name].memory()
        if memory is not None:
            facts[f'peak memory on {name}'] = f'growth of {memory.source}'
    return facts


@functools.cache
def _processor() -> str:
    """The name of the processor, cached because the look-up takes a second."""
    try:
        import cpuinfo

        name = cpuinfo.get_cpu_info().get('brand_raw')
    except Exception:  # it runs tools of the system, which fail in various ways
        name = None
    return name or platform.processor() or platform.machine()


def _load() -> str:
    """The load averages of the last 1, 5 and 15 minutes."""
    try:
        return ', '.join(f'{value:.2f}' for value in os.getloadavg())
    except (OSError, AttributeError):  # Windows
        return 'unknown'


def _version(package: str) -> str:
    try:
        return torch.__version__ if package == 'torch' else version(package)
    except PackageNotFoundError:
        return 'not installed'


def _kernel() -> str:
    """The kernel's version without its suffix, which may name a custom build."""
    return platform.release().partition('-')[0]
