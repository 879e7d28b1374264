"""What the answers of each model are compared with: its own as it was trained, and those of its teachers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from composer_kd.bench.backends import Call
from composer_kd.bench.built_model import BuiltModel
from composer_kd.bench.devices import Device, cores
from composer_kd.bench.failures import reason
from composer_kd.bench.precision import copied
from composer_kd.bench.predictions import TopClasses, answer, merged

__all__ = ['Reference', 'references']


@dataclass(frozen=True)
class Reference:
    """What one model's answers are compared with.

    Args:
        own: Its own as it was trained: eager, fp32; None where it cannot answer so.
        teachers: Those of the mean of its teachers; None without any, or where theirs mean nothing.
    """

    own: TopClasses | None = None
    teachers: TopClasses | None = None


def references(models: Sequence[BuiltModel], device: Device, say: Callable[[str], None]) -> dict[str, Reference]:
    """Lets models answer as they were trained.

    Args:
        models: The models; those that cannot answer get a note.
        device: Where.
        say: Told what is being done.

    Returns:
        A reference for each model, under its name.
    """
    by_name = {model.name: model for model in models}
    own: dict[str, TopClasses] = {}
    teachers: dict[str, TopClasses] = {}
    with device.threads(cores() if device.name == 'cpu' else None), torch.inference_mode():
        calls: dict[str, Call] = {}
        for model in models:
            say(f'{model.name} answers as it was trained')
            inputs = (model.inference.inputs_of(batch) for batch in model.batches)
            try:
                calls[model.name] = device.complete(copied(model.inference).to(device.torch_device))
                own[model.name] = answer(calls[model.name], inputs, model.batches, device.torch_device)
            except Exception as error:  # of any model: its rows say it too
                model.notes.append(f'not evaluated as it was trained: {reason(error)}')
        for model in models:
            taught_by = [by_name[name] for name in model.candidate.taught_by]
            if not taught_by or any(one.name not in own or not one.candidate.trained for one in taught_by):
                continue
            try:
                teachers[model.name] = _together(taught_by, own, calls, device)
            except Exception as error:  # such as teachers that choose between other classes
                model.notes.append(f'no agreement with the mean of its teachers: {reason(error)}')
    device.forget()
    return {name: Reference(own.get(name), teachers.get(name)) for name in by_name}


def _together(
    teachers: Sequence[BuiltModel], own: Mapping[str, TopClasses], calls: Mapping[str, Call], device: Device
) -> TopClasses:
    first = teachers[0]
    if len(teachers) == 1:
        return own[first.name]
    inputs = [(one.inference.inputs_of(batch) for batch in one.batches) for one in teachers]
    return merged([calls[one.name] for one in teachers], inputs, first.batches, device.torch_device)
