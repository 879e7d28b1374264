"""Preflight before training: reads the checkpoint to load, and runs the models on one sample."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from composer.core import Precision, State, get_precision_context
from composer.models import ComposerModel
from composer.utils import dist, get_device
from torch.utils.data import DataLoader

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.config.schema import RunConfig
from composer_kd.data.view_index import first_items
from composer_kd.errors import Attempts, CheckpointError, ConfigError
from composer_kd.presentation.addresses import without_credentials
from composer_kd.teachers.checkpoints import read_checkpoint
from composer_kd.teachers.readers import sharded

__all__ = ['check_autoresume', 'check_classes', 'check_load_path', 'dry_run']


def check_load_path(path: str) -> None:
    """Checks that a checkpoint is safe to load with Composer, which would execute code in it.

    Args:
        path: The value of ``load_path``.

    Raises:
        ConfigError: If it is missing, unsafe, or not a Composer checkpoint.
    """
    path = path.replace('{rank}', '0')  # as Composer does
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        raise ConfigError(f'load_path: expected a Composer checkpoint. {error}') from error
    if not checkpoint.from_composer:
        raise ConfigError(
            f'load_path: expected a Composer checkpoint, and {without_credentials(path)} holds weights alone; save one '
            'with the Trainer, or load the weights in your own script with composer_kd.teachers.load_weights'
        )


def check_autoresume(config: RunConfig) -> None:
    """Checks that the latest checkpoint in a run folder is safe to load with Composer, which would execute code in it.

    Args:
        config: The run that is about to start.

    Raises:
        ConfigError: If it is unsafe or damaged, with ``autoresume``.
    """
    if not config.autoresume or config.folder is None or dist.get_global_rank() != 0:
        return
    for file in sorted(config.folder.glob('*latest*-rank*')):
        try:
            if file.is_dir():
                sharded.check(str(file), str(file))
            elif file.is_file():
                read_checkpoint(file)
        except CheckpointError as error:
            raise ConfigError(
                f'autoresume: cannot go on from {file}. {error}\nTake another run_name, or remove what it leads to.'
            ) from error


def check_classes(model: ComposerModel, dataset: Any) -> None:
    """Checks that a classifier has an output for each class of its training data.

    Args:
        model: The student.
        dataset: The training data.

    Raises:
        ConfigError: If both say how many classes they have, and the model has fewer: the first batch with a label of
            the others would end the run.
    """
    has, needs = getattr(model, 'num_classes', None), getattr(dataset, 'num_classes', None)
    if isinstance(has, int) and isinstance(needs, int) and has < needs:
        raise ConfigError(
            f'model: has {has} classes, and train_loader.dataset has {needs}: give it num_classes: {needs}'
        )


def dry_run(
    model: ComposerModel, algorithms: dict[str, Any], loader: DataLoader[Any], precision: str | None = None
) -> None:
    """Runs the student and what teaches or trains beside it on one sample, to report models that do not fit the data.

    Moves the models to the device of the run, and restores the random state.

    Args:
        model: The student.
        algorithms: The algorithms by dotted key.
        loader: The loader that the sample is taken from.
        precision: The precision of the run; None for Composer's default.

    Raises:
        ConfigError: If a model fails; lists every model that fails.
    """
    device = get_device(None)
    attempt = Attempts()
    sort = Precision(precision or ('fp32' if device.name == 'cpu' else 'amp_fp16'))
    with torch.random.fork_rng(), torch.no_grad(), _evaluating(model), get_precision_context(sort):
        batch = device.batch_to_device(attempt(_answer, 'train_loader', _one_sample, loader))
        if not attempt.errors:
            state = State(device.module_to_device(model), rank_zero_seed=0, run_name='dry run', device=device)
            state.batch, state.outputs = batch, attempt(_answer, 'model', model, batch)
            attempt(_check_classes, state.outputs, getattr(model, 'num_classes', None))
            for path, algorithm in algorithms.items():
                for what, trial in algorithm.trials(state) if isinstance(algorithm, DistillationAlgorithm) else ():
                    attempt(_answer, f'{path}.{what}', trial, batch)
    attempt.finish()


def _one_sample(loader: DataLoader[Any]) -> Any:
    assert loader.collate_fn is not None
    return loader.collate_fn(first_items(loader.dataset, 1))


def _answer(who: str, call: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return call(argument)
    except Exception as error:  # the user's own model or data set may raise any error
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ConfigError(f'{who}: fails on the first sample of train_loader.dataset: {reason}') from error


def _check_classes(answer: Any, classes: Any) -> None:
    if (
        isinstance(answer, torch.Tensor)
        and answer.ndim == 2
        and isinstance(classes, int)
        and answer.shape[1] != classes
    ):
        raise ConfigError(f'model: answers with {answer.shape[1]} logits for {classes} classes; give it num_classes')


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Any:
    model.eval()
    try:
        yield
    finally:
        model.train()
