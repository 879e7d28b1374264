"""The models that a script gives: modules that it trained, and run folders."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from composer.models import ComposerModel
from torch import nn

from composer_kd.bench import Candidate
from composer_kd.errors import ConfigError, nearest
from composer_kd.features.calling import unwrapped
from composer_kd.presentation.roles import ALONE, DISTILLED, TEACHER
from composer_kd.runs.compared import compared_models
from composer_kd.runs.saved import SavedRun, open_run, open_runs
from composer_kd.students import EXTRAS

__all__ = ['Model', 'Models', 'TaughtBy', 'candidates_of', 'class_of', 'listed_in', 'opened', 'own_copy']

Model = nn.Module | str | os.PathLike[str]
"""A model: a module that a script trained, or the path of a run folder, a checkpoint or the YAML of a run."""

Models = Mapping[str, Model] | Sequence[Model]
"""Models by name; or a list of them, in which a module is called like its class, and a run by its own name."""

TaughtBy = Mapping[str, str | Sequence[str]]
"""The names of the teachers of each distilled student: ``{'student': 'teacher'}``."""


def own_copy(model: nn.Module) -> nn.Module:
    """Copies a model as it would be deployed.

    Args:
        model: A model, which may still be in the hands of a Trainer.

    Returns:
        A copy on the CPU in eval mode, without projectors and other nets that a distillation trained beside it.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> model.add_module(EXTRAS, nn.Linear(3, 3))
        >>> [name for name, _ in own_copy(model).named_modules()]
        ['']
    """
    model = getattr(model, '_orig_mod', model)  # compiled: the same model under other names
    beside = model._modules.get(EXTRAS)
    with torch.no_grad():
        copied: nn.Module = copy.deepcopy(model, {} if beside is None else {id(beside): None})
    copied._modules.pop(EXTRAS, None)
    if isinstance(copied, ComposerModel):
        copied.logger = None  # Composer's copy shares it, and it holds the whole run
    return copied.cpu().eval()


def opened(models: Models) -> list[SavedRun] | None:
    """Opens the runs, if all the models are paths.

    Args:
        models: The models.

    Returns:
        The runs, under the names that were given; None if a module is among the models.

    Raises:
        ComposerKDError: As :func:`.open_runs`.
    """
    listed = listed_in(models)
    paths = [one for one in listed if not isinstance(one, nn.Module)]
    if len(paths) < len(listed):
        return None
    if isinstance(models, Mapping):
        return [dataclasses.replace(open_run(os.fspath(one)), name=name) for name, one in zip(models, paths)]
    return open_runs([os.fspath(one) for one in paths])


def candidates_of(models: Models, taught_by: TaughtBy | None, num_classes: int | None = None) -> list[Candidate]:
    """Lists the models of a comparison, teachers first.

    Args:
        models: The models.
        taught_by: The teachers of each distilled student among the modules; a run knows its own.
        num_classes: The data's number of classes, for runs of plain classifiers that do not define their own.

    Returns:
        The candidates. A module is copied now: what a script does with it later changes nothing.

    Raises:
        ConfigError: If there are no models, two have the same name, or ``taught_by`` names none of them.
    """
    named = _named(models)
    teachers = {student: _listed(names) for student, names in (taught_by or {}).items()}
    for name in (*teachers, *(one for names in teachers.values() for one in names)):
        if name not in named:
            raise ConfigError(f'taught_by: {name!r} is none of the models{nearest(name, named)}')
    runs = [
        dataclasses.replace(open_run(os.fspath(model)), name=name)
        for name, model in named.items()
        if not isinstance(model, nn.Module)
    ]
    compared = compared_models(runs, num_classes)
    taken = {one.name for one in compared}
    listed: list[Candidate] = []
    for name, model in named.items():
        if isinstance(model, nn.Module):
            if name in taken:
                raise ConfigError(f'models: {name!r} is the name of two models, one of them a teacher of a run')
            listed.append(_candidate(name, model, teachers))
    for one in compared:
        own = teachers.get(one.name, ())
        listed.append(dataclasses.replace(one, taught_by=(*one.taught_by, *own), role=DISTILLED) if own else one)
    taught = {name for one in listed for name in one.taught_by}
    listed = [dataclasses.replace(one, role=TEACHER) if one.name in taught else one for one in listed]
    return sorted(listed, key=lambda one: one.name not in taught)


def _candidate(name: str, model: nn.Module, teachers: Mapping[str, tuple[str, ...]]) -> Candidate:
    own = own_copy(model)

    def make() -> nn.Module:
        return own

    return Candidate(name, make, DISTILLED if name in teachers else ALONE, teachers.get(name, ()), shift_labels=None)


def listed_in(models: Models) -> list[Model]:
    """The models of a list, or of models by name.

    Raises:
        ConfigError: If there are none, they are given in another way, or one is no model.
    """
    if isinstance(models, nn.Module | str | os.PathLike):
        raise ConfigError(f'models: expected a list of models, or models by name; got one {type(models).__name__}')
    listed = list(models.values() if isinstance(models, Mapping) else models)
    if not listed:
        raise ConfigError('models: expected at least one model, got none')
    for model in listed:
        if not isinstance(model, nn.Module | str | os.PathLike):
            raise ConfigError(
                f'models: expected modules, or paths of run folders; got a {type(model).__name__} among them'
            )
    return listed


def _named(models: Models) -> dict[str, Model]:
    listed = listed_in(models)
    if isinstance(models, Mapping):
        named = dict(models)
    else:
        named = {}
        for model in listed:
            base = class_of(model).__name__ if isinstance(model, nn.Module) else open_run(os.fspath(model)).name
            numbered = (base if number == 1 else f'{base} {number}' for number in range(1, len(listed) + 2))
            named[next(name for name in numbered if name not in named)] = model
    return named


def class_of(model: nn.Module) -> type[Any]:
    """The class of a model without the wrapper that Composer trains it in."""
    inner = unwrapped(getattr(model, '_orig_mod', model))
    return type(inner.module if isinstance(inner, ComposerModel) and hasattr(inner, 'module') else inner)


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
