"""The files that backends load a model from: each is written once, and loaded in every setting that needs it."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from composer_kd.bench.backends import Backend, Call, Target
from composer_kd.bench.devices import DEVICES, Device
from composer_kd.bench.failures import reason
from composer_kd.bench.precision import in_precision
from composer_kd.bench.results import Setting
from composer_kd.errors import ConfigError

__all__ = ['Loaded', 'SavedForms']


@dataclass
class Loaded:
    """A model loaded in one setting.

    Attributes:
        call: Takes tensors on the device and returns logits.
        file_bytes: The size of the files that were loaded, in bytes.
        seconds: The time to load the file and run the first forward pass.
        notes: Remarks that are shown with the results.
    """

    call: Call
    file_bytes: int
    seconds: float
    notes: list[str]


class SavedForms:
    """Writes one model in the forms that backends load, and loads it.

    Args:
        module: Takes tensors and returns logits; on the CPU. It is not modified.
        examples: Example inputs for exporters. The first forward pass of a loaded model uses the first sample.
        folder: The folder of the files; created if missing.
    """

    def __init__(self, module: nn.Module, examples: tuple[Tensor, ...], folder: pathlib.Path) -> None:
        self._module, self._examples, self._folder = module, examples, folder
        self._files: dict[tuple[str, ...], pathlib.Path | str] = {}

    def load(self, setting: Setting, backend: Backend, device: Device) -> Loaded:
        """Loads the model in one setting, after writing the file if necessary.

        Args:
            setting: The setting.
            backend: Its backend.
            device: Its device.

        Returns:
            The loaded model. Its load time is the shorter of two attempts; backends with a slow start get one attempt.

        Raises:
            Exception: Any exception of the backend.
        """
        file = self._file(backend, setting.precision, device)
        target = Target(device.torch_device, setting.threads)
        first = tuple(tensor[:1].to(target.device) for tensor in self._examples)
        seconds, call = float('inf'), None
        for _ in range(1 if backend.slow_start else 2):
            shell = in_precision(self._module, setting.precision)
            with backend.loading(target, self._folder), torch.inference_mode():
                begin = device.clock()
                call = device.complete(backend.load(file, shell, target))
                call(*first)
                seconds = min(seconds, device.clock() - begin)
        assert call is not None
        notes = backend.notes(in_precision(self._module, setting.precision))
        return Loaded(call, sum(one.stat().st_size for one in _parts(file)), seconds, notes)

    def _file(self, backend: Backend, precision: str, device: Device) -> pathlib.Path:
        """Returns the file that the backend loads, written at the first call; a failure to write it is remembered."""
        place = device if backend.per_device else DEVICES['cpu']
        key = backend.name, precision, place.name
        if key not in self._files:
            file = self._folder / f'{"-".join(key)}{backend.suffix}'
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                examples = tuple(tensor.to(place.torch_device) for tensor in self._examples)
                backend.save(in_precision(self._module, precision).to(place.torch_device), examples, file)
                self._files[key] = file
            except Exception as error:  # exporters raise errors of any type
                self._files[key] = reason(error)
        found = self._files[key]
        if isinstance(found, str):
            raise ConfigError(found)
        return found


def _parts(file: pathlib.Path) -> list[pathlib.Path]:
    """The file, and files beside it whose names start with its name: ONNX may store weights separately."""
    return [one for one in file.parent.iterdir() if one.name.startswith(file.name)]
