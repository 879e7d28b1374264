"""The models in a comparison: those of the runs, and the teachers of these runs."""

from __future__ import annotations

import functools
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from typing_extensions import override

from composer_kd.bench import Candidate
from composer_kd.config.construct import build_teacher
from composer_kd.config.load import as_mapping
from composer_kd.config.schema import TeacherConfig
from composer_kd.config.secrets import hidden
from composer_kd.config.yaml_source import read_source
from composer_kd.deploy import Inference
from composer_kd.errors import CheckpointError, ComposerKDError, ConfigError
from composer_kd.models.hugging_face_build import untrained
from composer_kd.presentation.addresses import without_credentials
from composer_kd.presentation.roles import ALONE, DISTILLED, TEACHER
from composer_kd.runs.beside import joint_net, name_of_net, names_beside, net_module
from composer_kd.runs.files import CONFIG_FILE, checkpoint_file
from composer_kd.runs.remote import checkpoint_at
from composer_kd.runs.saved import SavedRun
from composer_kd.runs.stored import TEACHER_FILE, live_teacher
from composer_kd.teachers.readers.folders import holds_weights

__all__ = ['ComparedModel', 'compared_models', 'data_in_words', 'evaluation_run', 'teacher_weights']


@dataclass(frozen=True)
class ComparedModel(Candidate):
    """A model in a comparison: a candidate of ``composer_kd.bench``, with the run or teacher settings it comes from.

    Args:
        role: ``TEACHER``, ``ALONE`` or ``DISTILLED``; a teacher that was itself distilled is a ``TEACHER``.
        run: The run that trained it; None for a teacher known only from a student's settings.
        teacher: Its settings as a teacher; None for the model of a run.
        net: The name of the net that was trained beside the student of the run; None for the student.
    """

    run: SavedRun | None = None
    teacher: TeacherConfig | None = None
    net: str | None = None

    @classmethod
    def of_run(
        cls, run: SavedRun, role: str, taught_by: tuple[str, ...] = (), num_classes: int | None = None
    ) -> ComparedModel:
        """Creates the entry for the model that a run trained.

        Args:
            run: The run; without a checkpoint, its model counts as untrained.
            role: ``TEACHER``, ``ALONE`` or ``DISTILLED``.
            taught_by: The names of its teachers among the compared models.
            num_classes: The data's number of classes, for a plain classifier that does not define its own.
        """
        make = functools.partial(run.model, num_classes)
        return cls(run.name, make, role, taught_by, run.is_trained, shift_labels=None, run=run)

    @classmethod
    def of_net(cls, run: SavedRun, net: str, num_classes: int | None = None) -> ComparedModel:
        """Creates the entry for a net that was trained beside the student of a run.

        Args:
            run: The run.
            net: The name of the net.
            num_classes: As for :meth:`of_run`.
        """
        make = functools.partial(net_module, run, net, num_classes)
        return cls(
            name_of_net(run, net), make, DISTILLED, (run.name,), run.is_trained, shift_labels=None, run=run, net=net
        )

    @classmethod
    def of_teacher(cls, name: str, config: TeacherConfig, trained: bool = True) -> ComparedModel:
        """Creates the entry for a teacher that is known only from a student's settings.

        Args:
            name: Its name in tables.
            config: Its settings.
            trained: Whether all of its weights are trained.
        """
        make = functools.partial(_model_of, config)
        return cls(name, make, TEACHER, (), trained, shift_labels=None, teacher=config)

    def built(self) -> tuple[nn.Module, Callable[[Any], Any] | None]:
        """Builds the model with its weights.

        Returns:
            The model, and what changes the inputs before it gets them; None for nothing.

        Raises:
            CheckpointError: If the weights cannot be loaded.
        """
        if self.net is not None and self.run is not None:
            net = joint_net(self.run, self.net)
            return net.model, net.input_adapter
        if self.teacher is None:
            return self.make(), None
        frozen = build_teacher(self.teacher)
        return frozen.model, frozen.input_adapter

    @override
    def inference(self, batch: Any) -> Inference:
        model, adapt = self.built()
        return Inference(model, batch, adapt)


def compared_models(runs: Sequence[SavedRun], num_classes: int | None = None) -> list[ComparedModel]:
    """Lists the models in a comparison: teachers first, then the students in the given order.

    After the student of a run come the nets that were trained beside it: peers, and exits.

    A teacher of pretrained weights that lack a part, such as the head, counts as untrained, with a warning.
    A teacher that is itself one of the runs is listed once. A teacher whose checkpoint is missing is left out with a
    warning, unless its relative path, valid in another working folder, matches the checkpoint of one of the runs.

    Args:
        runs: The runs to compare, with different names.
        num_classes: The data's number of classes, for plain classifiers that do not define their own.

    Returns:
        The models, which are not built yet.

    Example:
        >>> from composer_kd.runs.saved import open_run
        >>> [one.role for one in compared_models([open_run('yamls/digits/student.yaml')])]
        ['student alone']
    """
    of_checkpoint = {
        file: run.name
        for run in runs if run.checkpoint is not None
        # The latest checkpoint is a symbolic link.
        for file in (run.checkpoint.resolve(), run.checkpoint.absolute(), *_addressed(run))
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
        for stored in run.config.stored:
            if live_teacher(stored.folder, stored.local) is None:
                warnings.warn(
                    f'the teacher of {run.name} that is stored in {stored.folder} is left out of the comparison: its '
                    f'model is not known, for {stored.folder}/{TEACHER_FILE} is not there, or cannot be read',
                    stacklevel=2,
                )
        taught_by[run.name] = tuple(found)
    teachers = {name for names in taught_by.values() for name in names}
    listed = [ComparedModel.of_teacher(name, config, _is_trained(name, config)) for name, config in named.items()]
    for run in sorted(runs, key=lambda run: run.name not in teachers):
        role = TEACHER if run.name in teachers else DISTILLED if run.is_distilled else ALONE
        listed.append(ComparedModel.of_run(run, role, taught_by[run.name], num_classes))
        listed += [ComparedModel.of_net(run, net, num_classes) for net in names_beside(run)]
    return listed


def _addressed(run: SavedRun) -> list[pathlib.Path]:
    """Where the checkpoint of a run was fetched from, as a path, which a teacher's checkpoint is compared with."""
    return [] if run.address is None else [pathlib.Path(checkpoint_at(run.address))]


def _model_of(config: TeacherConfig) -> nn.Module:
    return build_teacher(config).model


def _is_trained(name: str, config: TeacherConfig) -> bool:
    """Whether all weights of a teacher are trained; pretrained ones may lack a head, which is then random."""
    if config.checkpoint is not None or not config.model.options.get('pretrained'):
        return True
    drawn = untrained(_model_of(config))
    if drawn:
        named = ', '.join(drawn[:2]) + (f' and {len(drawn) - 2} more' if len(drawn) > 2 else '')
        warnings.warn(
            f'the teacher {name!r} has random weights ({named}), which were not pretrained: it can teach by '
            'its layers, and its answers mean nothing',
            stacklevel=3,
        )
    return not drawn


def _name_among(
    config: TeacherConfig, of_checkpoint: dict[pathlib.Path, str], named: dict[str, TeacherConfig], taken: set[str]
) -> str | None:
    """The name of a teacher: that of the run that trained it, or a new one; None if its checkpoint is missing."""
    if config.checkpoint is not None and '://' in config.checkpoint:
        address = pathlib.Path(checkpoint_at(without_credentials(config.checkpoint)))
        if address in of_checkpoint:
            return of_checkpoint[address]
    elif config.checkpoint is not None:
        try:
            file = teacher_weights(config.checkpoint).resolve()
        except CheckpointError as error:
            moved = _ends_like(config.checkpoint, of_checkpoint)
            if moved is not None:
                return moved
            warnings.warn(f'a teacher is left out of the comparison: {error}', stacklevel=3)
            return None
        if file in of_checkpoint:
            return of_checkpoint[file]
    if config.forward is not None:
        warnings.warn(
            f'the teacher {next(_names_for(config))!r} is left out of the comparison: its forward, '
            f'{config.forward.name}, is for training, and without it the model gives other predictions',
            stacklevel=3,
        )
        return None
    known = next((name for name, other in named.items() if as_mapping(other) == as_mapping(config)), None)
    if known is not None:
        return known
    name = next(name for name in _names_for(config) if name not in named and name not in taken)
    named[name] = config
    return name


def teacher_weights(written: str) -> pathlib.Path:
    """Finds the weights of a teacher.

    Args:
        written: A file, a run folder, or a folder of ``save_pretrained``.

    Returns:
        The file, for a run folder its latest checkpoint, or the folder of ``save_pretrained``.

    Raises:
        CheckpointNotFoundError: If there is none.
        ConfigError: If it is a URI.
    """
    return pathlib.Path(written) if holds_weights(written) else checkpoint_file(written)


def _ends_like(checkpoint: str, of_checkpoint: dict[pathlib.Path, str]) -> str | None:
    """The name of the only run whose checkpoint ends in a relative path, which is valid in another working folder."""
    parts = pathlib.PurePath(checkpoint).parts
    places = [(place, name) for file, name in of_checkpoint.items() for place in (file, file.parent)]
    found = {name for place, name in places if place.parts[-len(parts) :] == parts}
    return found.pop() if len(found) == 1 else None


def _names_for(config: TeacherConfig) -> Iterator[str]:
    base = config.name or _run_of(config.checkpoint) or config.model.name.rpartition('.')[2]
    yield base
    yield from (f'{base} {number}' for number in range(2, 1000))


def _run_of(checkpoint: str | None) -> str | None:
    """The name of the run that saved a checkpoint, if its settings are in the same folder."""
    if checkpoint is None or '://' in checkpoint:
        return None
    try:
        written = read_source(checkpoint_file(checkpoint).parent / CONFIG_FILE).data.get('run_name')
    except ComposerKDError:
        return None  # weights outside a run folder
    return written if isinstance(written, str) else None


def evaluation_run(runs: Sequence[SavedRun]) -> SavedRun:
    """Chooses the run whose evaluation data is used for all models.

    Args:
        runs: The runs of the comparison.

    Returns:
        The first one with evaluation data.

    Raises:
        ConfigError: If no run has evaluation data, or two runs have different data, because their accuracies cannot be
            compared.
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
    """Describes a run's evaluation data for the readers of its results.

    Args:
        run: A run with evaluation data.

    Returns:
        The data set and its options, with absolute paths shortened to their last part.

    Example:
        >>> from composer_kd.runs.saved import open_run
        >>> data_in_words(open_run('yamls/digits/student.yaml'))
        'digits(split=test)'
    """
    loader = run.config.evaluation
    assert loader is not None
    options = {**hidden(loader.dataset.options), **({} if loader.hold_out is None else {'hold_out': loader.hold_out})}
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
