"""The only place that turns names into objects: from a checked configuration to a Trainer."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sized
from typing import Any

import torch
from composer import Trainer
from composer.metrics import CrossEntropy
from composer.models import ComposerModel
from composer.utils import dist, reproducibility
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from composer_kd.data import Indexed
from composer_kd.errors import ComposerKDError, ConfigError
from composer_kd.models import IndexedClassifier
from composer_kd.observation import IGNORE
from composer_kd.run.config import LoaderConfig, RunConfig, TeacherConfig
from composer_kd.run.names import resolve
from composer_kd.run.parts import Component
from composer_kd.run.preflight import Attempts, check_load_path, make_folder, rehearse
from composer_kd.run.resume import check_resumable
from composer_kd.students import EXTRAS
from composer_kd.teachers import FrozenTeacher

__all__ = [
    'build_loader',
    'build_model',
    'build_teacher',
    'build_trainer',
    'construct',
    'construct_or_say',
    'is_function_itself',
]


def is_function_itself(scope: str, target: Any) -> bool:
    """Tells whether a name means the function itself and not what it returns: ``kd_loss_fn: my.module.my_loss``.

    Args:
        scope: A key of ``SCOPES``.
        target: What the name resolves to.

    Returns:
        True for a loss, adapter, scheduler or schedule that is a function; all else is called for what it builds.

    Example:
        >>> is_function_itself('loss', torch.nn.functional.mse_loss), is_function_itself('loss', torch.nn.MSELoss)
        (True, False)
    """
    return scope in ('loss', 'adapter', 'scheduler', 'schedule') and not inspect.isclass(target)


def construct(component: Component, stand_in: Callable[[Any], Any] | None = None, **supplied: Any) -> Any:
    """Builds what a component names, and what its options name in their turn.

    Args:
        component: Name and options.
        stand_in: Gives a replacement for an option that shall not be built, None to build it.
        supplied: Keyword arguments that no YAML can hold, such as an optimizer's parameters.

    Returns:
        The object.

    Raises:
        ConfigError: If the name means nothing.

    Example:
        >>> construct(Component('loss', 'torch.nn.MSELoss', {'reduction': 'sum'})).reduction
        'sum'
    """
    target = resolve(component.scope, component.name)
    options = {key: _materialise(value, stand_in) for key, value in component.options.items()}
    if is_function_itself(component.scope, target):
        return functools.partial(target, **options)
    return target(**supplied, **options)


def _materialise(value: Any, stand_in: Callable[[Any], Any] | None) -> Any:
    replacement = stand_in(value) if stand_in is not None else None
    if replacement is not None:
        return replacement
    if isinstance(value, Component):
        return construct(value, stand_in)
    if isinstance(value, TeacherConfig):
        return build_teacher(value)
    if isinstance(value, list):
        attempt = Attempts()  # of several teachers, all that cannot be built are named
        items = [attempt(_materialise, item, stand_in) for item in value]
        attempt.finish()
        return items
    return value


def construct_or_say(component: Component, **supplied: Any) -> Any:
    """Builds what was too dear for a trial: what it refuses is said before training all the same, with its key.

    Args:
        component: Name and options.
        supplied: As for ``construct``.

    Returns:
        The object.

    Raises:
        ConfigError: If it cannot be built from its options.
    """
    try:
        return construct(component, **supplied)
    except ConfigError as error:
        raise ConfigError(f'{component.path}: {error}') from error
    except ComposerKDError:
        raise  # a checkpoint's error names the file
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        written = ', '.join(f'{key}={value!r}' for key, value in component.options.items())
        raise ConfigError(f'{component.path}: {component.name}({written}) cannot be built: {error}') from error


def build_model(component: Component, num_classes: int | None = None) -> ComposerModel:
    """Builds a model that Composer can train.

    Args:
        component: A model: a ComposerModel is taken as it is, a plain classifier is wrapped.
        num_classes: That of the data, for a plain classifier that does not say its own.

    Returns:
        The model, with accuracy over labelled samples in training, and accuracy and cross-entropy in evaluation.

    Raises:
        ConfigError: If it cannot be built from its options, or a plain module does not say its number of classes.

    Example:
        >>> options = {'in_channels': 1, 'image_size': 8, 'num_classes': 10}
        >>> build_model(Component('model', 'ShallowCNN', options)).num_classes
        10
    """
    module = construct_or_say(component)
    if isinstance(module, ComposerModel):
        return module
    said = (getattr(module, 'num_classes', None), component.options.get('num_classes'), num_classes)
    classes = next((number for number in said if isinstance(number, int)), None)
    if classes is None:
        raise ConfigError(
            f'{component.path}: {component.name} must be a ComposerModel, or it, its options or the data set must have '
            f'an integer num_classes; got {said[0]!r}'
        )
    accuracy = functools.partial(MulticlassAccuracy, num_classes=classes, average='micro', ignore_index=IGNORE)
    return IndexedClassifier(
        module,
        num_classes=classes,
        train_metrics=accuracy(),
        val_metrics=MetricCollection([accuracy(), CrossEntropy(ignore_index=IGNORE)]),
    )


def build_teacher(config: TeacherConfig) -> FrozenTeacher:
    """Builds one teacher and loads its weights.

    Args:
        config: Model, checkpoint, adapter, name.

    Returns:
        The teacher, frozen.

    Raises:
        CheckpointNotFoundError: If the checkpoint is not there.
        CheckpointError: If it is damaged, unsafe, or does not fit the model.
    """
    adapter = construct(config.input_adapter) if config.input_adapter is not None else None
    if config.is_random and '.' in config.model.name:
        warnings.warn(
            f'{config.model.path}: no checkpoint is given, so the teacher {config.model.name} teaches with the weights '
            'that it is built with; give its checkpoint unless it loads trained weights itself',
            stacklevel=2,
        )
    model = construct_or_say(config.model)
    return FrozenTeacher(model, checkpoint=config.checkpoint, input_adapter=adapter, name=config.name)


def build_loader(config: LoaderConfig, batch_size: int, seed: int, train: bool) -> DataLoader[Any]:
    """Builds a DataLoader whose samples are shared out among the processes.

    Args:
        config: Data set and loading.
        batch_size: Samples of one batch of this process.
        seed: Orders the samples, together with the epoch.
        train: Whether shuffling is the default.

    Returns:
        The loader.

    Raises:
        ConfigError: If the data is not where it should be, or too little of it for a single batch.
    """
    dataset: Dataset[Any] = construct_or_say(config.dataset)
    if not isinstance(dataset, Sized):
        raise ConfigError(
            f'{config.dataset.path}: {config.dataset.name} has no length, and samples are shared out among '
            'processes by their number; iterable data sets need a script of your own'
        )
    if config.with_index:
        dataset = Indexed(dataset)
    samples = len(dataset)
    share = samples // dist.get_world_size()
    if samples == 0 or (config.drop_last and share < batch_size):
        raise ConfigError(
            f'{config.dataset.path}: {samples} samples make no batch of {batch_size} for each of '
            f'{dist.get_world_size()} processes with drop_last={config.drop_last}'
        )
    shuffle = train if config.shuffle is None else config.shuffle
    workers = config.num_workers > 0
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=dist.get_sampler(dataset, drop_last=config.drop_last, shuffle=shuffle, seed=seed),
        drop_last=config.drop_last,
        num_workers=config.num_workers,
        pin_memory=torch.cuda.is_available() if config.pin_memory is None else config.pin_memory,
        persistent_workers=workers if config.persistent_workers is None else config.persistent_workers,
        prefetch_factor=config.prefetch_factor,
    )


def build_trainer(config: RunConfig) -> Trainer:
    """Builds everything that a run needs, in an order that brings errors up before anything is trained.

    Args:
        config: A checked configuration.

    Returns:
        The Trainer, ready for ``fit()``.

    Raises:
        ConfigError: If data is missing or a part cannot be built from its options.
        CheckpointError: If a teacher's weights cannot be loaded.
    """
    attempt = Attempts()
    attempt(make_folder, config.folder, 'save_folder')
    if config.load_path is not None:
        attempt(check_load_path, config.load_path)
    attempt(check_resumable, config)
    train_loader = attempt(build_loader, config.train_loader, config.device_train_batch_size, config.seed, train=True)
    eval_loader = None
    if config.eval_loader is not None:
        eval_loader = attempt(build_loader, config.eval_loader, config.device_eval_batch_size, config.seed, train=False)
    # The student comes first after seeding: its initial weights depend on the seed and on no teacher.
    reproducibility.seed_all(config.seed)
    model = attempt(build_model, config.model, getattr(getattr(train_loader, 'dataset', None), 'num_classes', None))
    algorithms = {part.path: attempt(construct_or_say, part) for part in config.algorithms.values()}
    callbacks = [attempt(construct_or_say, part) for part in config.callbacks.values()]
    loggers = [attempt(construct_or_say, part) for part in config.loggers.values()]
    attempt.finish()
    assert model is not None
    assert train_loader is not None
    if config.fsdp_config is None:  # a model that needs several GPUs cannot be tried on one
        rehearse(model, algorithms, train_loader, config.precision)
    try:
        return Trainer(
            model=model,
            train_dataloader=train_loader,
            eval_dataloader=eval_loader,
            optimizers=construct_or_say(config.optimizer, params=model.parameters()),
            schedulers=construct(config.scheduler) if config.scheduler is not None else None,
            algorithms=list(algorithms.values()),
            callbacks=callbacks,
            loggers=loggers,
            **_trainer_settings(config),
        )
    except (RuntimeError, KeyError) as error:
        if config.load_path is None or f'{EXTRAS}.' not in str(error):
            raise
        raise ConfigError(
            f'load_path: what the matches learn in this run is not what they learned in that of {config.load_path}. '
            "Load the student's weights alone: load_weights_only=true load_strict_model_weights=false"
        ) from error


def _trainer_settings(config: RunConfig) -> dict[str, Any]:
    same = [
        *('run_name', 'seed', 'max_duration', 'precision', 'device_train_microbatch_size', 'eval_interval'),
        *('train_subset_num_batches', 'eval_subset_num_batches', 'save_interval', 'save_weights_only'),
        *('save_num_checkpoints_to_keep', 'load_path', 'load_weights_only', 'autoresume', 'progress_bar'),
        *('log_to_console', 'console_log_interval', 'load_strict_model_weights'),
    ]
    overwrite = not config.autoresume if config.save_overwrite is None else config.save_overwrite
    return {
        **{name: getattr(config, name) for name in same},
        'save_folder': str(config.folder) if config.folder is not None else config.save_folder,
        'save_overwrite': overwrite,
        'parallelism_config': None if config.fsdp_config is None else {'fsdp': config.fsdp_config},
    }
