"""Evaluates a model of a script, or a run."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import torch
from composer import Evaluator
from composer.models import ComposerModel
from torch import nn

from composer_kd.bench.size import count_parameters, size_in_bytes
from composer_kd.data.seeded_items import kept_random_state
from composer_kd.deploy import Inference
from composer_kd.errors import ConfigError
from composer_kd.runs import evaluate as of_runs
from composer_kd.runs.build import as_classifier
from composer_kd.runs.evaluate import Evaluation, measured
from composer_kd.trained.data import Data
from composer_kd.trained.models import Model, class_of, own_copy

__all__ = ['evaluate']


def evaluate(model: Model, data: Any = None, *, config: str | os.PathLike[str] | None = None) -> Evaluation:
    """Measures the metrics of a model, its number of parameters and its size.

    Args:
        model: A model that a script trained: for Composer, or a plain classifier ``(B, classes)``. Or a run folder, or
            a checkpoint.
        data: For a module, what ``Trainer(eval_dataloader=...)`` takes, several Evaluators too, or one batch. None for
            a run, which has evaluation data of its own.
        config: For a checkpoint that a script's Trainer wrote: the YAML that says its model and data.

    Returns:
        The metrics under the names by which Composer logs them, the number of parameters and the bytes. The model is
        not changed, and what was trained beside it is not counted. The global random states are as they were.

    Raises:
        ConfigError: If data is missing, or the number of classes of a plain module is not known.
        CheckpointError: If a checkpoint is damaged, unsafe, or does not fit.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> found = evaluate(nn.Linear(4, 3), (torch.randn(8, 4), torch.arange(8) % 3))
        >>> sorted(found.metrics), found.parameters
        (['metrics/eval/CrossEntropy', 'metrics/eval/MulticlassAccuracy'], 15)
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with kept_random_state(), torch.random.fork_rng(devices):  # a Trainer seeds them
        return _evaluated(model, data, config)


def _evaluated(model: Model, data: Any, config: str | os.PathLike[str] | None) -> Evaluation:
    if not isinstance(model, nn.Module):
        if data is not None:
            raise ConfigError(
                'data: a run is evaluated on the data of its own YAML; leave data out, or give the module with its '
                'weights loaded (composer_kd.teachers.load_weights)'
            )
        return of_runs.evaluate(os.fspath(model), None if config is None else os.fspath(config))
    if data is None:
        raise ConfigError('data: a module is evaluated on data that is given with it: evaluate(model, loader)')
    own = own_copy(model)
    several = isinstance(data, list | tuple) and any(isinstance(one, Evaluator) for one in data)
    read = Data(data[0] if several else data)
    trainable = own if isinstance(own, ComposerModel) else as_classifier(own, _classes(own, read))
    given = data if several or isinstance(data, Evaluator) or read.dataset is not None else _as_evaluator(read, own)
    metrics = measured(trainable, given)
    return Evaluation(pathlib.Path(class_of(model).__name__), metrics, count_parameters(own), size_in_bytes(own))


def _as_evaluator(data: Data, model: nn.Module) -> Evaluator:
    """Batches that are no DataLoader, for a Trainer."""
    rows = len(Inference(model, data.first).inputs_of(data.first)[0])
    return Evaluator(label='eval', dataloader=data.loader, device_eval_microbatch_size=rows)


def _classes(model: nn.Module, data: Data) -> int:
    if data.num_classes is not None:
        return data.num_classes
    inference = Inference(model, data.first)
    logits = inference(*(tensor[:1] for tensor in inference.inputs_of(data.first)))
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ConfigError(
            f'model: expected a ComposerModel, or a classifier with logits (samples, classes); {type(model).__name__} '
            f'answers {tuple(logits.shape)}. Wrap it as you trained it, with its metrics'
        )
    return int(logits.shape[1])
