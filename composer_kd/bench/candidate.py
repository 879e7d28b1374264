"""One model of a benchmark: what is known of it in every setting, and its files."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from composer_kd.bench.backends import Backend, Call, Target
from composer_kd.bench.devices import DEVICES, Device
from composer_kd.bench.failures import reason
from composer_kd.bench.precision import copied, in_precision
from composer_kd.bench.predictions import Predictions
from composer_kd.bench.results import Row, Setting
from composer_kd.bench.size import count_flops, count_parameters
from composer_kd.deploy import Inference
from composer_kd.errors import ConfigError
from composer_kd.presentation.roles import ALONE

__all__ = ['Candidate', 'Entrant', 'Loaded']

EXAMPLES = 2
"""Samples that exporters see: of one they would conclude that there is always one."""


@dataclass(frozen=True)
class Candidate:
    """A model to be timed.

    Args:
        name: What it is called in tables.
        make: Builds it with its weights: an :class:`~composer_kd.deploy.Inference`, or any module that can be called
            with the batches.
        role: One of ``composer_kd.presentation.roles``: ``'teacher'``, ``'student distilled'`` or ``'student alone'``.
        taught_by: The names of its teachers among the candidates.
        trained: Whether its weights are more than random; if not, nothing is said of its accuracy.
        shift_labels: Whether it predicts the next token, so that position ``i`` answers for label ``i + 1``.
    """

    name: str
    make: Callable[[], nn.Module]
    role: str = ALONE
    taught_by: tuple[str, ...] = ()
    trained: bool = True
    shift_labels: bool = False


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


class Entrant:
    """A candidate, built.

    Args:
        candidate: What to build.
        batches: The evaluation data.
        folder: Where its files go while it is timed.

    Raises:
        ConfigError: If the model cannot be called with the batches.
    """

    def __init__(self, candidate: Candidate, batches: Sequence[Any], folder: pathlib.Path) -> None:
        self.candidate = candidate
        self.name = candidate.name
        self.batches = batches
        module = copied(candidate.make())  # it may be the caller's own
        inference = module if isinstance(module, Inference) else Inference(module, batches[0])
        self.module = inference.cpu().float().eval()
        self.inputs_of = inference.inputs_of
        self.examples = self.inputs(EXAMPLES)
        self.answers: Predictions | None = None  # as it was trained: eager, fp32
        self._folder = folder
        self._files: dict[tuple[str, ...], pathlib.Path | str] = {}
        self.parameters = count_parameters(self.module)
        self.notes: list[str] = []
        self.flops = self._count_flops()

    def inputs(self, size: int) -> tuple[Tensor, ...]:
        """A batch of any size, made of the samples of the first one."""
        first = self.inputs_of(self.batches[0])
        chosen = torch.arange(size) % len(first[0])
        return tuple(tensor.index_select(0, chosen) for tensor in first)

    def row(self, setting: Setting) -> Row:
        """A row that says what is known before anything is timed."""
        row = Row(self.name, self.candidate.role, setting, self.parameters, self.flops)
        row.notes += self.notes if self.candidate.trained else [*self.notes, 'random weights: no accuracy']
        return row

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
        first = tuple(tensor.to(target.device) for tensor in self.inputs(1))
        seconds, call = float('inf'), None
        for _ in range(1 if backend.slow_start else 2):
            shell = in_precision(self.module, setting.precision)
            with backend.loading(target, self._folder), torch.inference_mode():
                begin = device.clock()
                call = device.complete(backend.load(file, shell, target))
                call(*first)
                seconds = min(seconds, device.clock() - begin)
        assert call is not None
        notes = backend.notes(in_precision(self.module, setting.precision))
        return Loaded(call, sum(one.stat().st_size for one in _parts(file)), seconds, notes)

    def _file(self, backend: Backend, precision: str, device: Device) -> pathlib.Path:
        """The model as this backend loads it, written once; what cannot be written is not tried again."""
        place = device if backend.per_device else DEVICES['cpu']
        key = backend.name, precision, place.name
        if key not in self._files:
            file = self._folder / f'{"-".join(key)}{backend.suffix}'
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                examples = tuple(tensor.to(place.torch_device) for tensor in self.examples)
                backend.save(in_precision(self.module, precision).to(place.torch_device), examples, file)
                self._files[key] = file
            except Exception as error:  # exporters raise errors of all kinds
                self._files[key] = reason(error)
        found = self._files[key]
        if isinstance(found, str):
            raise ConfigError(found)
        return found

    def _count_flops(self) -> float | None:
        try:
            counted = count_flops(self.module, self.inputs(1))
        except Exception as error:  # a model that cannot answer says so again in its rows
            self.notes.append(f'operations not counted: {reason(error)}')
            return None
        if counted is None:
            self.notes.append('operations not counted: torch.utils.flop_counter knows none of them')
        return counted


def _parts(file: pathlib.Path) -> list[pathlib.Path]:
    """The file, and what lies beside it under its name: weights that ONNX keeps apart."""
    return [one for one in file.parent.iterdir() if one.name.startswith(file.name)]
