"""Meters of electrical energy, which read the hardware counters of a device."""

from __future__ import annotations

import abc
import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from typing_extensions import override

__all__ = ['EnergyMeter', 'NvmlMeter', 'RaplMeter', 'meter_for']

_POWERCAP = pathlib.Path('/sys/class/powercap')


class EnergyMeter(abc.ABC):
    """Measures the energy that a device consumes after ``start()``.

    Attributes:
        source: A description of the counter, for reports.
        whole_machine: Whether the counter covers all processes of the machine, so that only one process of a
            distributed run may report it.
    """

    source: str
    whole_machine: bool

    @abc.abstractmethod
    def available(self) -> bool:
        """Whether the counter can be read on this machine. Never raises."""

    @abc.abstractmethod
    def start(self) -> None:
        """Starts the measurement.

        Raises:
            OSError: If the counter cannot be read.
        """

    @abc.abstractmethod
    def joules(self) -> float:
        """Reads the energy since ``start()``, in joules. May be called repeatedly.

        Raises:
            OSError: If the counter can no longer be read.
        """


class RaplMeter(EnergyMeter):
    """Reads the RAPL counters of Intel and AMD processors, which Linux provides as files: all sockets and their memory.

    They cover all processes of the machine, and wrap around to zero after about 250 kJ: call ``joules()`` at least
    every ten minutes. On many systems only root may read them.

    Args:
        root: The folder of the counters.
    """

    whole_machine = True

    def __init__(self, root: pathlib.Path = _POWERCAP) -> None:
        self._domains = list(_domains(root))
        names = sorted({_text(domain / 'name') for domain in self._domains})
        self.source = f'RAPL ({", ".join(names)})'
        self._last: list[int] = []
        self._microjoules = 0

    @override
    def available(self) -> bool:
        try:
            return bool(self._read())
        except OSError:
            return False

    @override
    def start(self) -> None:
        self._microjoules, self._last = 0, self._read()

    @override
    def joules(self) -> float:
        now = self._read()
        for domain, before, after in zip(self._domains, self._last, now):
            wrapped = _number(domain / 'max_energy_range_uj') if after < before else 0
            self._microjoules += after - before + wrapped
        self._last = now
        return self._microjoules / 1e6

    def _read(self) -> list[int]:
        return [_number(domain / 'energy_uj') for domain in self._domains]


class NvmlMeter(EnergyMeter):
    """Reads the energy counter of an NVIDIA GPU (Volta and newer) through NVML: the consumption of the whole board.

    Needs ``pip install 'composer_kd[energy]'``. Includes other processes on the same GPU.

    Args:
        device: A CUDA device; the current one if it has no index.
    """

    whole_machine = False
    source = 'NVML'

    def __init__(self, device: torch.device) -> None:
        self._counter = _nvml_counter(device)
        self._start = 0

    @override
    def available(self) -> bool:
        try:
            return self._counter is not None and self._counter() >= 0
        except Exception:  # NVML raises its own exception classes
            return False

    @override
    def start(self) -> None:
        self._start = self._read()

    @override
    def joules(self) -> float:
        return (self._read() - self._start) / 1e3

    def _read(self) -> int:
        if self._counter is None:
            raise OSError('NVML shows no energy counter for this device')
        try:
            return self._counter()
        except Exception as error:
            raise OSError(f'NVML could not read the energy counter: {error}') from error


def meter_for(device: torch.device) -> EnergyMeter | None:
    """Returns the energy meter of a device.

    Args:
        device: The device that a model runs on.

    Returns:
        A readable meter, or ``None`` if the device has none on this machine.

    Example:
        >>> meter_for(torch.device('meta')) is None
        True
    """
    makers: dict[str, Callable[[], EnergyMeter]] = {'cuda': lambda: NvmlMeter(device), 'cpu': RaplMeter}
    if device.type not in makers:
        return None
    meter = makers[device.type]()
    return meter if meter.available() else None


def _domains(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """The sockets, and their memory if it has its own counter; ``psys`` and the MMIO copies would count twice."""
    for socket in sorted(root.glob('intel-rapl:*')):
        if socket.name.count(':') != 1 or _text(socket / 'name') == 'psys':
            continue
        yield socket
        yield from (part for part in sorted(socket.glob(f'{socket.name}:*')) if _text(part / 'name') == 'dram')


def _number(file: pathlib.Path) -> int:
    text = file.read_text(encoding='ascii').strip()
    if not text.isdigit():
        raise OSError(f'{file} holds no number: {text!r}')
    return int(text)


def _text(file: pathlib.Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text(encoding='ascii').strip()
    return ''


def _nvml_counter(device: torch.device) -> Callable[[], int] | None:
    """Returns a function that reads the millijoules since the driver was loaded; None if NVML cannot find the GPU."""
    if getattr(torch.version, 'hip', None) or not torch.cuda.is_available():
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = _nvml_handle(pynvml, device)
        return lambda: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except Exception:  # not installed, no driver, or a MIG slice of a GPU, which has no counter
        return None


def _nvml_handle(pynvml: Any, device: torch.device) -> Any:
    index = torch.cuda.current_device() if device.index is None else device.index
    # torch numbers only the GPUs in CUDA_VISIBLE_DEVICES, NVML numbers all: the UUID is the same in both.
    uuid = getattr(torch.cuda.get_device_properties(index), 'uuid', None)
    if uuid is None:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    return pynvml.nvmlDeviceGetHandleByUUID(f'GPU-{uuid}')
