"""The models that a comparison is about: those of the runs, and the teachers of those runs."""

from __future__ import annotations

import enum
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from torch import nn
from yaml import YAMLError

from composer_kd.config.construct import build_teacher
from composer_kd.config.load import as_mapping
from composer_kd.config.schema import TeacherConfig
from composer_kd.deploy import Inference
from composer_kd.errors import CheckpointError, ConfigError
from composer_kd.presentation import roles
from composer_kd.runs.files import CONFIG_FILE, checkpoint_file
from composer_kd.runs.saved import SavedRun

__all__ = ['ComparedModel', 'Role', 'compared_models', 'data_in_words', 'evaluation_run']


class Role(enum.Enum):
    """What a model is in a comparison."""

    TEACHER = roles.TEACHER
    DISTILLED = roles.DISTILLED
    ALONE = roles.ALONE


@dataclass
class ComparedModel:
    """One model of a comparison.

    Args:
        name: What it is called in tables.
        role: Whether it taught, was taught, or neither; one that did both is a teacher.
        run: The run that trained it; None for a teacher that is only named in a student's settings.
        teacher: Its settings as a teacher; None for the model of a run that is given itself.
        taught_by: The names of its teachers among the models compared.
    """

    name: str
    role: Role
    run: SavedRun | None = None
    teacher: TeacherConfig | None = None
    taught_by: tuple[str, ...] = ()

    @property
    def is_trained(self) -> bool:
        """Whether its weights are more than random: what it answers then means something."""
        return self.run.is_trained if self.run is not None else True

    def module(self, num_classes: int | None = None) -> nn.Module:
        """Builds the model with its weights.

        Args:
            num_classes: That of the data, for a plain classifier that does not say its own.

        Returns:
            The model, in eval mode: a ComposerModel, or what a teacher's settings name.
        """
        if self.run is not None:
            return self.run.model(num_classes)
        assert self.teacher is not None
        return build_teacher(self.teacher).model

    def inference(self, batch: object, num_classes: int | None = None) -> Inference:
        """Builds the model as it is deployed: tensors in, logits out.

        Args:
            batch: One batch of the data that it is to answer for.
            num_classes: As for ``module``.

        Returns:
            The module, with a teacher's input adapter in it.
        """
        if self.run is not None:
            return Inference(self.run.model(num_classes), batch)
        assert self.teacher is not None
        frozen = build_teacher(self.teacher)
        return Inference(frozen.model, batch, frozen.input_adapter)


def compared_models(runs: Sequence[SavedRun]) -> list[ComparedModel]:
    """Lists the models of a comparison: teachers first, then the students in the order given.

    A teacher that is itself one of the runs is listed once. One whose checkpoint is gone is left out, with a warning;
    a relative path that was written in another working folder is recognised among the runs.

    Args:
        runs: The runs to compare, under different names.

    Returns:
        The models.

    Example:
        >>> from composer_kd.runs.saved import open_run
        >>> [one.role.value for one in compared_models([open_run('yamls/digits/student.yaml')])]
        ['student alone']
    """
    of_checkpoint = {
        file: run.name
        for run in runs if run.checkpoint is not None
        for file in (run.checkpoint.resolve(), run.checkpoint.absolute())  # the latest is a link
    }  # fmt: skip
    names = {run.name for run in runs}
    named: dict[str, TeacherConfig] = {}
    taught_by: dict[str, tuple[str, ...]] = {}
    for run in runs:
        found = []
        for config in run.config.teachers:
            name = _name_among(config, of_checkpoint, named, names)
            if name is not None:
                found.append(name)
        taught_by[run.name] = tuple(found)
    teachers = {name for names in taught_by.values() for name in names}
    listed = [ComparedModel(name, Role.TEACHER, teacher=config) for name, config in named.items()]
    listed += [
        ComparedModel(run.name, Role.TEACHER, run, taught_by=taught_by[run.name])
        for run in runs
        if run.name in teachers
    ]
    for run in runs:
        if run.name not in teachers:
            role = Role.DISTILLED if run.is_distilled else Role.ALONE
            listed.append(ComparedModel(run.name, role, run, taught_by=taught_by[run.name]))
    return listed


def _name_among(
    config: TeacherConfig, of_checkpoint: dict[pathlib.Path, str], named: dict[str, TeacherConfig], taken: set[str]
) -> str | None:
    """The name of a teacher: that of the run that it is, or one of its own; None where its weights are gone."""
    if config.checkpoint is not None and '://' not in config.checkpoint:
        try:
            file = checkpoint_file(config.checkpoint).resolve()
        except CheckpointError as error:
            moved = _ends_like(config.checkpoint, of_checkpoint)
            if moved is not None:
                return moved
            warnings.warn(f'a teacher is left out of the comparison: {error}', stacklevel=3)
            return None
        if file in of_checkpoint:
            return of_checkpoint[file]
    known = next((name for name, other in named.items() if as_mapping(other) == as_mapping(config)), None)
    if known is not None:
        return known
    name = next(name for name in _names_for(config) if name not in named and name not in taken)
    named[name] = config
    return name


def _ends_like(checkpoint: str, of_checkpoint: dict[pathlib.Path, str]) -> str | None:
    """The run given whose checkpoint ends in a relative path, which was written in another working folder."""
    parts = pathlib.PurePath(checkpoint).parts
    places = [(place, name) for file, name in of_checkpoint.items() for place in (file, file.parent)]
    found = {name for place, name in places if place.parts[-len(parts) :] == parts}
    return found.pop() if len(found) == 1 else None


def _names_for(config: TeacherConfig) -> Iterator[str]:
    base = config.name or _run_of(config.checkpoint) or config.model.name.rpartition('.')[2]
    yield base
    yield from (f'{base} {number}' for number in range(2, 1000))


def _run_of(checkpoint: str | None) -> str | None:
    """The name of the run that a checkpoint is of, where its settings lie in its folder."""
    if checkpoint is None or '://' in checkpoint:
        return None
    try:
        written: Any = OmegaConf.load(checkpoint_file(checkpoint).parent / CONFIG_FILE)
        return written.get('run_name')
    except (OSError, YAMLError, AttributeError):
        return None  # weights that come without a run of ours


def evaluation_run(runs: Sequence[SavedRun]) -> SavedRun:
    """Chooses the run whose evaluation data all models answer for.

    Args:
        runs: The runs of the comparison.

    Returns:
        The first one with evaluation data.

    Raises:
        ConfigError: If there is none, or two have different data: their accuracies could not be compared.
    """
    having = [run for run in runs if run.config.evaluation is not None]
    if not having:
        raise ConfigError('none of the runs has an eval_loader, so there is nothing to compare them on')
    first = having[0]
    for other in having[1:]:
        if _data(other) != _data(first):
            raise ConfigError(
                f'{first.name} and {other.name} are evaluated on different data, so their accuracies cannot be '
                f'compared: {_data(first)} and {_data(other)}. Give runs with one eval_loader.dataset'
            )
    return first


def data_in_words(run: SavedRun) -> str:
    """Names a run's evaluation data, for people that the numbers are sent to.

    Args:
        run: A run that has some.

    Returns:
        The data set and its options; of folders somewhere on this machine the last name alone.

    Example:
        >>> from composer_kd.runs.saved import open_run
        >>> data_in_words(open_run('yamls/digits/student.yaml'))
        'digits(split=test)'
    """
    loader = run.config.evaluation
    assert loader is not None
    options = {**loader.dataset.options, **({} if loader.hold_out is None else {'hold_out': loader.hold_out})}
    listed = ', '.join(f'{key}={_last_name(value)}' for key, value in options.items() if value is not None)
    return f'{loader.dataset.name}({listed})' if listed else loader.dataset.name


def _last_name(value: object) -> object:
    away = isinstance(value, str) and (value.startswith('~') or pathlib.PurePath(value).is_absolute())
    return pathlib.PurePath(str(value)).name if away else value


def _data(run: SavedRun) -> object:
    loader = run.config.evaluation
    if loader is None:
        return None
    held_out = {} if loader.hold_out is None else {'hold_out': loader.hold_out, 'hold_out_seed': loader.hold_out_seed}
    return {**as_mapping(loader.dataset), **held_out}
