"""Meters of electrical energy, where a device tells it. Nothing here estimates."""

from __future__ import annotations

import abc
import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ['EnergyMeter', 'NvmlMeter', 'RaplMeter', 'meter_for']

_POWERCAP = pathlib.Path('/sys/class/powercap')


class EnergyMeter(abc.ABC):
    """Counts the energy that a device takes, from ``start()`` on.

    Attributes:
        source: What is counted, in words.
        whole_machine: Whether it counts all processes of the machine together, so that only one of them may add it up.
    """

    source: str
    whole_machine: bool

    @abc.abstractmethod
    def available(self) -> bool:
        """Whether the counter can be read here. Never raises."""

    @abc.abstractmethod
    def start(self) -> None:
        """Counts from now on.

        Raises:
            OSError: If the counter cannot be read.
        """

    @abc.abstractmethod
    def joules(self) -> float:
        """The energy since ``start()``, in joules; may be asked again and again.

        Raises:
            OSError: If the counter cannot be read any more.
        """


class RaplMeter(EnergyMeter):
    """The counters of Intel and AMD processors that Linux shows as files: all sockets and their memory.

    They count what every process of the machine takes, and start again at zero after some 250 kJ: ask for ``joules()``
    at least every ten minutes. Many systems let only root read them.

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

    def available(self) -> bool:
        """Whether there are counters, and this process may read them."""
        try:
            return bool(self._read())
        except OSError:
            return False

    def start(self) -> None:
        """Counts from now on."""
        self._microjoules, self._last = 0, self._read()

    def joules(self) -> float:
        """The energy since ``start()``, in joules."""
        now = self._read()
        for domain, before, after in zip(self._domains, self._last, now):
            wrapped = _number(domain / 'max_energy_range_uj') if after < before else 0
            self._microjoules += after - before + wrapped
        self._last = now
        return self._microjoules / 1e6

    def _read(self) -> list[int]:
        return [_number(domain / 'energy_uj') for domain in self._domains]


class NvmlMeter(EnergyMeter):
    """The counter of an NVIDIA GPU (Volta and newer), through NVML: all that the board takes.

    Needs ``pip install 'composer_kd[energy]'``. Other processes on the same GPU are counted too.

    Args:
        device: A CUDA device; the current one if it has no index.
    """

    whole_machine = False
    source = 'NVML'

    def __init__(self, device: torch.device) -> None:
        self._counter = _nvml_counter(device)
        self._start = 0

    def available(self) -> bool:
        """Whether NVML is installed and this GPU counts energy."""
        try:
            return self._counter is not None and self._counter() >= 0
        except Exception:  # NVML's errors are classes of its own
            return False

    def start(self) -> None:
        """Counts from now on."""
        self._start = self._read()

    def joules(self) -> float:
        """The energy since ``start()``, in joules."""
        return (self._read() - self._start) / 1e3

    def _read(self) -> int:
        if self._counter is None:
            raise OSError('NVML shows no energy counter for this device')
        try:
            return self._counter()
        except Exception as error:
            raise OSError(f'NVML could not read the energy counter: {error}') from error


def meter_for(device: torch.device) -> EnergyMeter | None:
    """Finds the meter of a device.

    Args:
        device: Where a model runs.

    Returns:
        A meter that can be read, or None: then nothing tells the energy here.

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
    """The sockets, and their memory where it is counted apart. ``psys`` and the MMIO twins would count twice."""
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
    """Reads the millijoules since the driver was loaded; None without NVML or this GPU in it."""
    if getattr(torch.version, 'hip', None) or not torch.cuda.is_available():
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = _nvml_handle(pynvml, device)
        return lambda: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except Exception:  # not installed, no driver, or a part of a GPU (MIG), which counts nothing
        return None


def _nvml_handle(pynvml: Any, device: torch.device) -> Any:
    index = torch.cuda.current_device() if device.index is None else device.index
    # torch numbers the GPUs that CUDA_VISIBLE_DEVICES leaves, NVML all of them: the UUID means the same to both.
    uuid = getattr(torch.cuda.get_device_properties(index), 'uuid', None)
    if uuid is None:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    return pynvml.nvmlDeviceGetHandleByUUID(f'GPU-{uuid}')
