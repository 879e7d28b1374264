"""A model in the forms that backends load: each written once, and loaded in as many settings as there are."""

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
    """A model that answers in one setting.

    Attributes:
        call: Takes tensors on the device.
        file_bytes: Bytes of what was loaded.
        seconds: From the file to the first answer.
        notes: What a reader must know.
    """

    call: Call
    file_bytes: int
    seconds: float
    notes: list[str]


class SavedForms:
    """The files of one model.

    Args:
        module: Tensors in, logits out, on the CPU; left as it is.
        examples: Some of its inputs, for exporters; the first sample is what a loaded model answers first.
        folder: Where the files go; made if need be.
    """

    def __init__(self, module: nn.Module, examples: tuple[Tensor, ...], folder: pathlib.Path) -> None:
        self._module, self._examples, self._folder = module, examples, folder
        self._files: dict[tuple[str, ...], pathlib.Path | str] = {}

    def load(self, setting: Setting, backend: Backend, device: Device) -> Loaded:
        """Makes the model answer in one setting.

        Args:
            setting: The setting.
            backend: Its backend.
            device: Its device.

        Returns:
            What answers. Its load time is the quicker of two tries, unless it takes minutes.

        Raises:
            Exception: Whatever the backend raises.
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
        """The model as this backend loads it, written once; what cannot be written is not tried again."""
        place = device if backend.per_device else DEVICES['cpu']
        key = backend.name, precision, place.name
        if key not in self._files:
            file = self._folder / f'{"-".join(key)}{backend.suffix}'
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                examples = tuple(tensor.to(place.torch_device) for tensor in self._examples)
                backend.save(in_precision(self._module, precision).to(place.torch_device), examples, file)
                self._files[key] = file
            except Exception as error:  # exporters raise errors of all kinds
                self._files[key] = reason(error)
        found = self._files[key]
        if isinstance(found, str):
            raise ConfigError(found)
        return found


def _parts(file: pathlib.Path) -> list[pathlib.Path]:
    """The file, and what lies beside it under its name: weights that ONNX keeps apart."""
    return [one for one in file.parent.iterdir() if one.name.startswith(file.name)]
