"""A saved run: its settings, weights and final metrics, read from the run folder."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from composer.models import ComposerModel
from torch.utils.data import DataLoader

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.batches.contents import split_index
from composer_kd.config.load import default_run_name, load_part
from composer_kd.config.markers import Component, Part, RunName
from composer_kd.config.schema import EvaluationConfig, LoaderConfig, RunConfig, TeacherConfig, local_folder
from composer_kd.config.secrets import hidden
from composer_kd.config.stored import Stored, StoredTeacherConfig, stored_teachers
from composer_kd.config.yaml_source import read_source
from composer_kd.errors import Attempts, ConfigError
from composer_kd.presentation.addresses import without_credentials
from composer_kd.runs.build import build_model
from composer_kd.runs.files import CONFIG_FILE, METRICS_FILE, checkpoint_file, latest_in
from composer_kd.runs.loaders import build_loader, evaluation_data
from composer_kd.runs.remote import fetched, is_remote
from composer_kd.runs.stages import stage_folders
from composer_kd.runs.stored import live_teacher
from composer_kd.teachers import load_weights
from composer_kd.teachers.checkpoints import holds_extras

__all__ = ['SavedConfig', 'SavedRun', 'find_config', 'open_run', 'open_runs']


PARENTS_SEARCHED = 3


@dataclass
class SavedConfig(EvaluationConfig):
    """The settings that a comparison needs: those of an evaluation, the held-out samples, and the teachers."""

    train_loader: LoaderConfig | None = None
    algorithms: Annotated[dict[str, Component], Part('algorithm')] = field(default_factory=dict)
    run_name: Annotated[str | None, RunName] = None

    @property
    def evaluation(self) -> LoaderConfig | None:
        """The settings of the data that the run is evaluated on; None if there is none."""
        return evaluation_data(self.train_loader, self.eval_loader)

    @property
    def teachers(self) -> list[TeacherConfig]:
        """The settings of the teachers in its algorithms; of a stored one those that it was stored with, if known."""
        live = [teacher for algorithm in self.algorithms.values() for teacher in algorithm.holding(TeacherConfig)]
        stored = (live_teacher(one.folder, one.local) for one in self.stored)
        return [*live, *(teacher for teacher in stored if teacher is not None)]

    @property
    def stored(self) -> list[Stored]:
        """Its stored teachers."""
        return stored_teachers(self.algorithms)

    @property
    def distilling(self) -> list[str]:
        """The keys of the algorithms that distil: each :class:`.DistillationAlgorithm`, and what else has teachers."""
        return [key for key, algorithm in self.algorithms.items() if _distils(algorithm)]


def _distils(algorithm: Component) -> bool:
    kind = algorithm.target
    if isinstance(kind, type) and issubclass(kind, DistillationAlgorithm):
        return True
    teachers = [one for one in algorithm.holding(Component) if one.scope == 'teacher']
    return bool(teachers or algorithm.holding(TeacherConfig) or algorithm.holding(StoredTeacherConfig))


@dataclass(frozen=True)
class SavedRun:
    """A run that can be evaluated, timed, compared or exported.

    Args:
        name: Its name in tables: the ``run_name``, or the name of the run folder.
        config: The checked part of its settings, from which the model and the data are built.
        written: All its settings, as in its ``config.yaml``.
        checkpoint: Its weights; None for a YAML without a trained run, whose model has random weights.
        folder: The run folder; None for a YAML without a trained run.
        address: Where it was fetched from, without keys; None for a run on this machine.
    """

    name: str
    config: SavedConfig
    written: dict[str, Any]
    checkpoint: pathlib.Path | None = None
    folder: pathlib.Path | None = None
    address: str | None = None

    @property
    def is_trained(self) -> bool:
        """Whether it has a checkpoint."""
        return self.checkpoint is not None

    @property
    def is_distilled(self) -> bool:
        """Whether it was trained with a distillation algorithm."""
        return bool(self.config.distilling)

    @functools.cached_property
    def holds_nets(self) -> bool:
        """Whether its checkpoint has what was trained beside the student; true for a run that is not trained yet."""
        return self.checkpoint is None or holds_extras(self.checkpoint)

    @functools.cached_property
    def metrics(self) -> dict[str, float]:
        """The final metrics from ``metrics.json``; empty if the run did not finish.

        Raises:
            ConfigError: If the file is cut short, or is not what this package writes.
        """
        file = None if self.folder is None else self.folder / METRICS_FILE
        if file is None or not file.is_file():
            return {}
        try:
            content = json.loads(file.read_text(encoding='utf-8'))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f'{file} is damaged: {error}. Delete it; what needs its numbers measures anew') from error
        if not isinstance(content, dict):
            raise ConfigError(f'{file} is damaged: expected metrics by name, got a {type(content).__name__}. Delete it')
        wrong = [
            name for name, value in content.items() if isinstance(value, bool) or not isinstance(value, int | float)
        ]
        if wrong:
            raise ConfigError(
                f'{file} is damaged: expected a number for {wrong[0]}, got {content[wrong[0]]!r:.80}. Delete it'
            )
        return content

    def loader(self) -> DataLoader[Any]:
        """Builds the DataLoader of its evaluation data.

        Returns:
            The DataLoader.

        Raises:
            ConfigError: If the run has no evaluation data, or the data is missing.
        """
        config, evaluation = self.config, self.config.evaluation
        if evaluation is None:
            raise ConfigError(
                f'{self.name}: the run has no eval_loader, so there is nothing to evaluate it on. Give --config YAML'
            )
        return build_loader(evaluation, config.device_eval_batch_size, config.seed, train=False)

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yields the batches of its evaluation data in the form that models take, without the sample index.

        Args:
            loader: The DataLoader from ``loader()``.

        Yields:
            The batches.
        """
        evaluation = self.config.evaluation
        indexed = evaluation is not None and evaluation.with_index
        for batch in loader:
            yield split_index(batch, indexed)[0]

    def model(self, num_classes: int | None = None) -> ComposerModel:
        """Builds its model and loads its weights.

        Args:
            num_classes: The data's number of classes, for a plain classifier that does not define its own.

        Returns:
            The model, in eval mode.

        Raises:
            CheckpointError: If its checkpoint is damaged, unsafe, or does not fit the model.
        """
        model = build_model(self.config.model, num_classes)
        if self.checkpoint is not None:
            load_weights(model, self.checkpoint)
        return model.eval()


def open_run(written: str | pathlib.Path, config: str | pathlib.Path | None = None) -> SavedRun:
    """Opens a saved run.

    Args:
        written: A run folder or a checkpoint, also behind a URI, which is fetched once; or a YAML. A YAML stands for
            the run in its ``save_folder``, with the settings that the run was trained with; without a checkpoint there,
            for its model with random weights.
        config: The run's YAML; default: the ``config.yaml`` beside the checkpoint or in a folder above it.

    Returns:
        The run, whose model and data are not built yet.

    Raises:
        CheckpointNotFoundError: If there is no such checkpoint.
        ConfigError: If its settings are missing or wrong.

    Example:
        >>> open_run('yamls/digits/student.yaml').name
        'digits-student'
    """
    path = pathlib.Path(written)
    if path.suffix in ('.yaml', '.yml'):
        if config is not None:
            raise ConfigError(f'{path} holds the settings itself: leave --config out, or give a checkpoint with it')
        return _described(path)
    address = str(written) if is_remote(written) else None
    checkpoint = checkpoint_file(str(written if address is None else fetched(address)))
    file = pathlib.Path(config) if config is not None else find_config(checkpoint)
    settings, content = _read(file, believed=config is not None)
    name = content.get('run_name') or file.absolute().parent.name
    shown = None if address is None else without_credentials(address)
    return SavedRun(name, settings, content, checkpoint, file.parent, shown)


def _described(path: pathlib.Path) -> SavedRun:
    if path.name == CONFIG_FILE and latest_in(path.parent).is_file():
        return open_run(path.parent)  # works for a moved folder too
    settings, content = _read(path)
    name = str(content.get('run_name') or default_run_name(path))
    # load_config would check all keys, but a YAML for another machine may have keys that are invalid on this one.
    place = read_source(path).data.get('save_folder', RunConfig.save_folder)  # content has it as it is written
    folder = local_folder(place, name) if isinstance(place, str) else None
    checkpoint = None if folder is None else latest_in(folder)
    if checkpoint is None or not checkpoint.is_file():
        return SavedRun(name, settings, content)
    if (checkpoint.parent / CONFIG_FILE).is_file():
        return open_run(checkpoint)  # the YAML may have changed since, or the run had overrides
    return SavedRun(name, settings, content, checkpoint, folder)


def _read(file: pathlib.Path, believed: bool = True) -> tuple[SavedConfig, dict[str, Any]]:
    """Reads settings; the record of a saved run is not believed, a YAML that the user named is."""
    settings = load_part(file, SavedConfig, believed)
    content: Any = read_source(file).data
    name = content.get('run_name')
    return settings, {**hidden(content), **({} if name is None else {'run_name': str(name)})}


def open_runs(written: Sequence[str | pathlib.Path], config: str | pathlib.Path | None = None) -> list[SavedRun]:
    """Opens several runs; runs with the same name get their paths as names.

    Args:
        written: Run folders, checkpoints or YAML files, as in ``open_run``; or the folder of a chain of stages.
        config: One YAML for all of them; default: the ``config.yaml`` of each.

    Returns:
        The runs, with different names.

    Raises:
        ComposerKDError: If runs cannot be opened, with all of them in one error; or if a run is given twice.

    Example:
        >>> [run.name for run in open_runs(['yamls/digits/student.yaml', 'yamls/digits/kd.yaml'])]
        ['digits-student', 'digits-kd']
    """
    attempt = Attempts()
    written = stage_folders(written)
    opened = [attempt(open_run, one, config) for one in written]
    attempt.finish()
    runs = [run for run in opened if run is not None]
    places = [run.checkpoint or pathlib.Path(path) for run, path in zip(runs, written)]
    for place in places:
        if places.count(place) > 1:
            raise ConfigError(f'{place} is given {places.count(place)} times; give each run once')
    names = [run.name for run in runs]
    return [
        run if names.count(run.name) == 1 else dataclasses.replace(run, name=str(pathlib.Path(path)))
        for run, path in zip(runs, written)
    ]


def find_config(checkpoint: pathlib.Path) -> pathlib.Path:
    """Finds the ``config.yaml`` that a run saved with its checkpoints.

    Args:
        checkpoint: A checkpoint file.

    Returns:
        The nearest ``config.yaml``: beside the checkpoint, or at most three folders above it.

    Raises:
        ConfigError: If there is none.
    """
    folders = [checkpoint.absolute().parent, *checkpoint.absolute().parent.parents][: PARENTS_SEARCHED + 1]
    for folder in folders:
        if (folder / CONFIG_FILE).is_file():
            return folder / CONFIG_FILE
    raise ConfigError(
        f'no {CONFIG_FILE} beside {checkpoint} or in the {PARENTS_SEARCHED} folders above it, and it says which model '
        'and data belong to the checkpoint. `composer-kd train` writes it; for other checkpoints give --config YAML'
    )
