"""Builds a Composer Trainer from a checked configuration."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from composer import Callback, Evaluator, Trainer
from composer.algorithms import CutMix, LabelSmoothing, MixUp
from composer.callbacks import LoadCheckpoint
from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.metrics import CrossEntropy
from composer.models import ComposerClassifier, ComposerModel
from composer.utils import is_notebook, reproducibility
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from composer_kd.algorithms.absent_loss import reads_loss
from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.algorithms.labelled_mean import LabelledMean
from composer_kd.batches.contents import IGNORE
from composer_kd.callbacks.phases import PhaseLabels
from composer_kd.callbacks.progress import RunProgress
from composer_kd.config.construct import HUGGING_FACE, construct, construct_or_say
from composer_kd.config.markers import Component
from composer_kd.config.profiler import build_profiler
from composer_kd.config.schema import RunConfig
from composer_kd.config.text_checks import check_texts
from composer_kd.errors import Attempts, ComposerKDError, ConfigError
from composer_kd.models import IndexedClassifier
from composer_kd.presentation.addresses import without_credentials
from composer_kd.presentation.speech import is_watched
from composer_kd.runs.evaluators import build_evaluators, evaluators_of
from composer_kd.runs.files import make_folder
from composer_kd.runs.folder import check_files, check_remote, check_unused
from composer_kd.runs.loaders import build_loader, check_held_out, evaluation_data
from composer_kd.runs.preflight import check_autoresume, check_classes, check_load_path, dry_run
from composer_kd.runs.remote import check_uploaders
from composer_kd.runs.resume import check_resumable
from composer_kd.runs.stored import check_stores
from composer_kd.runs.trackers import looks_for_checkpoint
from composer_kd.students import EXTRAS

__all__ = ['as_classifier', 'build_model', 'build_trainer', 'check_components']


def build_model(component: Component, num_classes: int | None = None) -> ComposerModel:
    """Builds a model that Composer can train.

    Args:
        component: A model: a ComposerModel is used as it is, a plain classifier is wrapped.
        num_classes: The data's number of classes, for a plain classifier that does not define its own.

    Returns:
        The model; a wrapped classifier measures accuracy over labelled samples, and in evaluation also cross-entropy.

    Raises:
        ConfigError: If it cannot be built from its options, or the number of classes of a plain module is unknown.

    Example:
        >>> options = {'in_channels': 1, 'image_size': 8, 'num_classes': 10}
        >>> build_model(Component('model', 'ShallowCNN', options)).num_classes
        10
    """
    module = construct_or_say(component)
    if isinstance(module, ComposerModel):
        return module
    if any(kind.__module__.startswith('transformers.') for kind in type(module).__mro__):
        raise ConfigError(
            f'{component.path}: {type(module).__name__} is a model of transformers, which needs a wrapper to be '
            f'trained. {HUGGING_FACE}'
        )
    said = (getattr(module, 'num_classes', None), component.options.get('num_classes'), num_classes)
    classes = next((number for number in said if isinstance(number, int)), None)
    if classes is None:
        raise ConfigError(
            f'{component.path}: {component.name} must be a ComposerModel, or it, its options or the data set must have '
            f'an integer num_classes; got {said[0]!r}'
        )
    return as_classifier(module, classes)


def as_classifier(module: nn.Module, num_classes: int) -> IndexedClassifier:
    """Wraps a plain classifier for Composer.

    Args:
        module: Returns logits ``(B, num_classes)`` for the inputs of a batch.
        num_classes: The number of classes.

    Returns:
        The wrapped classifier, with the metrics that :func:`build_model` says.

    Example:
        >>> as_classifier(nn.Linear(4, 3), 3).num_classes
        3
    """
    accuracy = functools.partial(MulticlassAccuracy, num_classes=num_classes, average='micro', ignore_index=IGNORE)
    return IndexedClassifier(
        module,
        num_classes=num_classes,
        train_metrics=accuracy(),
        val_metrics=MetricCollection([accuracy(), CrossEntropy(ignore_index=IGNORE)]),
    )


def build_trainer(config: RunConfig, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Builds everything that a run needs, and reports errors before training starts.

    Args:
        config: A checked configuration.
        callbacks: Callbacks and loggers in addition to those in the YAML; these callbacks run first.

    Returns:
        The Trainer, ready for ``fit()``.

    Raises:
        ConfigError: If data is missing, or a component cannot be built from its options.
        CheckpointError: If a teacher's weights cannot be loaded.
    """
    parts = _build_parts(config)
    profiler = None
    if config.profiler is not None:
        profiler = build_profiler(config.profiler, config.folder, _epoch_length(parts.train_loader, config))
        callbacks = [*callbacks, PhaseLabels()]
    if config.sharding is None:  # a sharded model may not fit on one GPU
        dry_run(parts.model, parts.algorithms, parts.train_loader, config.precision)
    loading = _Loading()
    with _load_errors_said(config, loading):
        return Trainer(
            model=parts.model,
            train_dataloader=parts.train_loader,
            eval_dataloader=parts.evaluation,
            optimizers=construct_or_say(config.optimizer, params=parts.model.parameters()),
            schedulers=construct(config.scheduler) if config.scheduler is not None else None,
            algorithms=[*parts.algorithms.values(), *_for_missing_labels(parts)],
            callbacks=[
                *(one for one in callbacks if not isinstance(one, LoggerDestination)),
                *parts.callbacks,
                loading,
            ],
            profiler=profiler,
            loggers=[
                *parts.loggers,
                *(one for one in callbacks if isinstance(one, LoggerDestination)),
                *_progress(config),
            ],
            **_trainer_settings(config),
            autoresume=looks_for_checkpoint(config, parts.loggers),
        )


def _for_missing_labels(parts: _Parts) -> list[LabelledMean]:
    """What gives the loss of a classifier a meaning in microbatches without a label, if nothing else does."""
    targets = getattr(parts.train_loader.dataset, 'targets', None)
    is_mean = reads_loss(parts.model) or type(parts.model) in (ComposerClassifier, IndexedClassifier)
    others = (DistillationAlgorithm, LabelSmoothing, MixUp, CutMix)
    missing = targets is not None and IGNORE in targets
    if not (is_mean and missing) or any(isinstance(one, others) for one in parts.algorithms.values()):
        return []
    return [LabelledMean()]


def check_components(config: RunConfig) -> None:
    """Builds the callbacks and loggers of a run as a check, without a Trainer that would start them.

    Args:
        config: A checked configuration.

    Raises:
        ConfigError: If one cannot be built from its options; lists all of them.
    """
    attempt = Attempts()
    for part in (*config.callbacks.values(), *config.loggers.values()):
        attempt(construct_or_say, part)
    attempt.finish()


@dataclass(frozen=True)
class _Parts:
    """The parts of a Trainer that are built before the dry run."""

    train_loader: DataLoader[Any]
    evaluation: Any
    model: ComposerModel
    algorithms: dict[str, Any]
    callbacks: list[Any]
    loggers: list[Any]


def _build_parts(config: RunConfig) -> _Parts:
    """Builds the parts, and reports all errors together."""
    check_stores(config)
    attempt = Attempts()
    attempt(make_folder, config.folder, 'save_folder')
    check_files(config)  # alone, because the checks below read the files and mend the link
    if config.load_path is not None:
        attempt(check_load_path, config.load_path)
    for check in (check_unused, check_remote, check_uploaders, check_resumable, check_autoresume):
        attempt(check, config)
    train_loader, eval_loader = _build_loaders(config, attempt)
    # Built first after seeding, so that the initial weights of the student depend on the seed and not on a teacher.
    reproducibility.seed_all(_student_seed(config))
    model = attempt(build_model, config.model, getattr(getattr(train_loader, 'dataset', None), 'num_classes', None))
    for name, loader in (('train_loader', train_loader), ('eval_loader', eval_loader)):
        if model is not None and loader is not None:
            attempt(check_texts, model, loader.dataset, name)
    if model is not None and train_loader is not None:
        attempt(check_classes, model, train_loader.dataset)
    further: list[Evaluator] | None = None
    if model is not None:
        further = attempt(build_evaluators, config.evaluators, model, config.device_eval_batch_size, config.seed)
    algorithms = {part.path: attempt(construct_or_say, part) for part in config.algorithms.values()}
    callbacks = [attempt(construct_or_say, part) for part in config.callbacks.values()]
    for callback in callbacks:
        if isinstance(callback, LoadCheckpoint):  # it loads as load_path does
            attempt(check_load_path, callback.load_path)
    loggers = [attempt(construct_or_say, part) for part in config.loggers.values()]
    attempt.finish()
    assert model is not None
    assert train_loader is not None
    return _Parts(train_loader, evaluators_of(eval_loader, further or ()), model, algorithms, callbacks, loggers)


def _student_seed(config: RunConfig) -> int:
    """The seed of the student's first weights in this process: an algorithm may train several nets, one a process."""
    seed = config.seed
    for part in config.algorithms.values():
        if isinstance(part.target, type) and issubclass(part.target, DistillationAlgorithm):
            seed = part.target.student_seed(seed, part.options)
    return seed


def _build_loaders(config: RunConfig, attempt: Attempts) -> tuple[DataLoader[Any] | None, DataLoader[Any] | None]:
    train = attempt(build_loader, config.train_loader, config.device_train_batch_size, config.seed, train=True)
    data = evaluation_data(config.train_loader, config.eval_loader)
    if data is None:
        return train, None
    evaluation = attempt(build_loader, data, config.device_eval_batch_size, config.seed, train=False)
    if train is not None and evaluation is not None:
        attempt(check_held_out, train, evaluation)
    return train, evaluation


class _Loading(Callback):
    """Tells whether Composer is loading a checkpoint, between the last callback before it and the first after it."""

    def __init__(self) -> None:
        self.is_running = False

    @override
    def before_load(self, state: State, logger: Logger) -> None:
        self.is_running = True

    @override
    def after_load(self, state: State, logger: Logger) -> None:
        self.is_running = False


@contextlib.contextmanager
def _load_errors_said(config: RunConfig, loading: _Loading) -> Iterator[None]:
    """Explains what to do if a checkpoint is not one of this run's model, optimizer or auxiliary modules."""
    try:
        yield
    except ComposerKDError:
        raise
    except Exception as error:  # a foreign checkpoint may fail in any part of Composer
        if not loading.is_running:
            raise
        key, path = (
            ('autoresume', config.folder)
            if config.load_path is None
            else ('load_path', without_credentials(config.load_path))
        )
        if key == 'load_path' and f'{EXTRAS}.' in str(error):
            raise ConfigError(
                f'load_path: what is trained beside the student in this run is not what was trained in that of {path}. '
                "Load the student's weights alone: load_weights_only=true load_strict_model_weights=false"
            ) from error
        raise ConfigError(
            f'{key}: the checkpoint of {path} does not fit this run: {" ".join(str(error).split())[:400]}. Give one of '
            'the same model and optimizer, or start anew with another run_name'
        ) from error


def _epoch_length(loader: DataLoader, config: RunConfig) -> int:
    subset = config.train_subset_num_batches
    return len(loader) if subset == -1 else min(len(loader), subset)


def _trainer_settings(config: RunConfig) -> dict[str, Any]:
    same = [
        *('run_name', 'seed', 'max_duration', 'precision', 'device_train_microbatch_size', 'eval_interval'),
        *('train_subset_num_batches', 'eval_subset_num_batches', 'save_interval', 'save_weights_only'),
        *('save_num_checkpoints_to_keep', 'load_path', 'load_weights_only'),
        *('log_to_console', 'console_log_interval', 'load_strict_model_weights'),
        *('save_filename', 'save_latest_filename', 'python_log_level', 'compile_config'),
    ]
    return {
        **{name: getattr(config, name) for name in same},
        'load_ignore_keys': config.load_ignore_keys or None,
        'save_folder': str(config.folder) if config.folder is not None else config.save_folder,
        # The folder was checked: what lies there is this run's, and a damaged checkpoint is written anew.
        'save_overwrite': True,
        'progress_bar': config.progress_bar and is_notebook(),
        'parallelism_config': None if config.sharding is None else {'fsdp': config.sharding},
    }


def _progress(config: RunConfig) -> list[RunProgress]:
    """The bar of the whole run, where it can be redrawn in place; in a log file it would be thousands of lines."""
    is_drawn = config.progress_bar and not config.log_to_console and is_watched() and not is_notebook()
    return [RunProgress(str(config.run_name))] if is_drawn else []
