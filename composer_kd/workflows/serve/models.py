"""The models of run folders, built with their weights, to be asked one input at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from composer_kd.bench.devices import DEVICES, Device
from composer_kd.bench.size import count_parameters, size_in_bytes
from composer_kd.data.collating import chain_of
from composer_kd.errors import ConfigError
from composer_kd.features.calling import unwrapped
from composer_kd.models.hugging_face_build import untrained
from composer_kd.runs.compared import ComparedModel, compared_models
from composer_kd.runs.saved import SavedRun, open_runs

__all__ = ['RunData', 'ServedModel', 'fastest_device', 'open_models']


@dataclass(frozen=True)
class RunData:
    """The run whose data a model reads.

    Args:
        run: The run.
        dataset: Its evaluation data; None if that cannot be loaded here.
        missing: Why it cannot be loaded.
    """

    run: SavedRun
    dataset: Any = None
    missing: str = ''

    def first(self, attribute: str) -> Any:
        """An attribute of the data set, or else of one that it wraps; None if none has it."""
        if self.dataset is None:
            return None
        found = (getattr(one, attribute, None) for one in chain_of(self.dataset))
        return next((one for one in found if one is not None), None)


@dataclass(frozen=True)
class ServedModel:
    """A trained model that answers.

    Args:
        name: Its name among the models.
        role: ``'teacher'``, ``'student distilled'`` or ``'student alone'``.
        data: The run whose data it reads: its own, or for a teacher of another origin that of its student.
        model: The model, in eval mode.
        adapt: What changes its inputs first; None for nothing.
    """

    name: str
    role: str
    data: RunData
    model: nn.Module
    adapt: Callable[[Any], Any] | None = None

    @property
    def net(self) -> nn.Module:
        """The net inside the wrapper that Composer trains it in."""
        return unwrapped(self.model)

    @functools.cached_property
    def parameters(self) -> int:
        """The number of its parameters."""
        return count_parameters(self.model)

    @functools.cached_property
    def size(self) -> int:
        """Bytes of its weights, as ``torch.save`` writes them."""
        return size_in_bytes(self.model)


def open_models(written: Sequence[str]) -> list[ServedModel]:
    """Builds the models of runs and their teachers, with the weights of the runs.

    Args:
        written: Run folders, or the folder of a chain of stages.

    Returns:
        The models: teachers first, then students in the order of their runs.

    Raises:
        ComposerKDError: If a run cannot be opened, or its weights cannot be loaded.
    """
    for one in written:
        if one.endswith(('.yaml', '.yml')):
            raise ConfigError(f'{one} is not a run: give the folder that it saved, such as runs/NAME')
    runs = open_runs(written)
    data = _data_of(runs)
    classes = next((one.first('num_classes') for one in data.values() if one.dataset is not None), None)
    every = compared_models(runs, classes)
    return [_served(one, data[_reader_of(one, every)]) for one in every]


def _served(compared: ComparedModel, data: RunData) -> ServedModel:
    model, adapt = compared.built()
    drawn = untrained(model)
    if drawn:
        raise ConfigError(f'{compared.name}: weights are random that were in no checkpoint: {", ".join(drawn[:3])}')
    return ServedModel(compared.name, compared.role, data, model.eval(), adapt)


def _reader_of(compared: ComparedModel, every: Sequence[ComparedModel]) -> str:
    """The name of the run whose data a model reads: its own, or that of the first student that it taught."""
    if compared.run is not None:
        return compared.run.name
    return next(one.run.name for one in every if one.run is not None and compared.name in one.taught_by)


def _data_of(runs: Sequence[SavedRun]) -> dict[str, RunData]:
    """Loads the evaluation data of runs, the same data once."""
    loaded: list[tuple[Any, Any]] = []
    found = {}
    for run in runs:
        try:
            settings = run.config.evaluation
            known = next((dataset for other, dataset in loaded if other == settings), None)
            dataset = run.loader().dataset if known is None else known
            loaded.append((settings, dataset))
            found[run.name] = RunData(run, dataset)
        except ConfigError as error:
            found[run.name] = RunData(run, missing=str(error))
    return found


def fastest_device() -> Device:
    """The GPU of this machine that torch runs on, or else the processor."""
    return next(device for device in (DEVICES['cuda'], DEVICES['cpu']) if device.available())
