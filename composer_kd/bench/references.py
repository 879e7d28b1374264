"""Reference predictions of each model: its own in eager fp32, and those of its teachers."""

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
    """The predictions that a model's predictions in a setting are compared with.

    Args:
        own: Its own predictions in eager fp32; ``None`` if it fails there.
        teachers: The predictions of its teachers (of their mean logits); ``None`` without teachers, or if a teacher is
            untrained or fails.
    """

    own: TopClasses | None = None
    teachers: TopClasses | None = None


def references(models: Sequence[BuiltModel], device: Device, say: Callable[[str], None]) -> dict[str, Reference]:
    """Computes the reference predictions of all models, in eager fp32.

    Args:
        models: The models; a model that fails gets a note.
        device: The device that they run on.
        say: Called with a description of each step.

    Returns:
        The references by model name.
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
                own[model.name] = answer(calls[model.name], inputs, model.batches, device.torch_device, model.form)
            except Exception as error:  # models raise errors of any type
                model.notes.append(f'not evaluated as it was trained: {reason(error)}')
        for model in models:
            taught_by = [by_name[name] for name in model.candidate.taught_by]
            if not taught_by or any(one.name not in own or not one.candidate.trained for one in taught_by):
                continue
            try:
                teachers[model.name] = _together(taught_by, own, calls, device)
            except Exception as error:  # such as teachers with different numbers of classes
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
    return merged([calls[one.name] for one in teachers], inputs, first.batches, device.torch_device, first.form)
