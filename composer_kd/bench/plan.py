"""Lists the settings that a benchmark compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer_kd.bench.backends import BACKENDS, Backend
from composer_kd.bench.devices import DEVICES, Device, present
from composer_kd.bench.precision import PRECISIONS
from composer_kd.bench.results import Setting
from composer_kd.errors import ConfigError, nearest

__all__ = ['ALL', 'plan']

ALL = 'all'


def plan(
    devices: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    known: Mapping[str, Backend] = BACKENDS,
) -> list[Setting]:
    """Lists the settings for a benchmark on this machine.

    Combinations of device, backend and precision that are not supported are left out. Backends that are not installed
    are listed: their rows report the missing packages.

    Args:
        devices: Names of devices, or ``'all'``; by default all devices of this machine.
        backends: Names of backends, or ``'all'``; by default all, on the CPU without those with a slow start
            (``torch.compile`` takes a minute for each model there).
        precisions: ``'fp32'``, ``'bf16'``, ``'fp16'``, ``'int8'``, or ``'all'``; by default those that the device
            computes fast, and int8.
        threads: Numbers of CPU threads; by default one, and as many as this process has physical cores.
        known: All backends by name, including your own.

    Returns:
        The settings, in the order in which they run.

    Raises:
        ConfigError: If a name is unknown, a device is not available, or no setting is left.

    Example:
        >>> [str(setting) for setting in plan(['cpu'], ['eager'], ['fp32'], [1])]
        ['cpu, 1 thread, eager, fp32']
    """
    here = present() if devices is None or ALL in devices else _listed('devices', devices, DEVICES)
    chosen = [_device(name) for name in here]
    if threads is not None and (not threads or min(threads) < 1):
        raise ConfigError(f'threads: expected whole numbers of 1 or more, got {list(threads)}')
    wanted = None if backends is None else _listed('backends', backends, known)
    in_precisions = None if precisions is None else _listed('precisions', precisions, PRECISIONS)
    settings = []
    for device in chosen:
        counts = list(dict.fromkeys(threads)) if threads and device.name == 'cpu' else device.thread_counts()
        for count in counts:
            for name in wanted or [one for one, backend in known.items() if _by_default(backend, device)]:
                for precision in _precisions(known[name], device, in_precisions):
                    settings.append(Setting(device.name, count, name, precision))
    _check_all_used(settings, chosen, wanted, None if ALL in (precisions or []) else in_precisions, known)
    return settings


def _listed(what: str, names: Sequence[str], known: Mapping[str, object]) -> list[str]:
    if ALL in names:
        return list(known)
    for name in names:
        if name not in known:
            raise ConfigError(f'{what}: {name!r} is unknown{nearest(name, known)}')
    return list(dict.fromkeys(names))


def _device(name: str) -> Device:
    device = DEVICES[name]
    if not device.available():
        raise ConfigError(f'devices: no {name!r} on this machine ({device.absent}); present: {", ".join(present())}')
    return device


def _by_default(backend: Backend, device: Device) -> bool:
    return device.name in backend.devices and not (backend.slow_start and device.name == 'cpu')


def _precisions(backend: Backend, device: Device, chosen: Sequence[str] | None) -> list[str]:
    if device.name not in backend.devices:
        return []
    wanted = (*device.precisions, 'int8') if chosen is None else chosen
    return [one for one in backend.precisions if one in wanted]


def _check_all_used(
    settings: Sequence[Setting],
    devices: Sequence[Device],
    backends: Sequence[str] | None,
    precisions: Sequence[str] | None,
    known: Mapping[str, Backend],
) -> None:
    """Raises an error if a backend or precision requested by name is in no setting; with ``'all'`` that is allowed."""
    used = {setting.backend for setting in settings}
    for name in backends or []:
        if name not in used and set(backends or []) != set(known):
            raise ConfigError(
                f'backends: {name} runs in {", ".join(known[name].precisions)} on {", ".join(known[name].devices)}; '
                f'asked for: {", ".join(precisions or ["any precision"])} on {", ".join(one.name for one in devices)}'
            )
    for name in precisions or []:
        if all(setting.precision != name for setting in settings):
            running = ', '.join(one for one, backend in known.items() if name in backend.precisions)
            raise ConfigError(
                f'precisions: {name} is left with no backend on {", ".join(one.name for one in devices)}; '
                f'those that run in it: {running}'
            )
    if not settings:
        raise ConfigError(f'expected backends that run on {", ".join(one.name for one in devices)}, got none')
