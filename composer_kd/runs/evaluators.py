"""Builds the evaluators of a run: the evaluation data, and further data under labels of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from composer import Evaluator
from composer.models import ComposerModel
from torch.utils.data import DataLoader

from composer_kd.config.schema import EvaluatorConfig
from composer_kd.config.text_checks import check_texts
from composer_kd.errors import Attempts, ConfigError, nearest
from composer_kd.runs.loaders import build_loader

__all__ = ['build_evaluators', 'evaluators_of']


def build_evaluators(
    configs: Sequence[EvaluatorConfig], model: ComposerModel, batch_size: int, seed: int
) -> list[Evaluator]:
    """Builds the further evaluators of a run.

    Args:
        configs: Their labels, data, metrics and intervals.
        model: The model, which has the metrics.
        batch_size: Samples per batch in this process.
        seed: The seed of the order of the samples.

    Returns:
        The evaluators.

    Raises:
        ConfigError: If data is missing, or the model has no such metric; lists all that are wrong.
    """
    attempt = Attempts()
    built = [attempt(_build, config, model, batch_size, seed) for config in configs]
    attempt.finish()
    return [one for one in built if one is not None]


def evaluators_of(loader: DataLoader[Any] | None, further: Sequence[Evaluator], most: int | None = None) -> Any:
    """What a Trainer evaluates on.

    Args:
        loader: The evaluation data, whose label is ``eval``; None for none.
        further: The further evaluators.
        most: The number of batches of an evaluator that has none of its own; None for what the Trainer is given.

    Returns:
        The loader itself if there are no further evaluators; else all evaluators.
    """
    if not further:
        return loader
    main = [] if loader is None else [Evaluator(label='eval', dataloader=loader)]
    for one in (*main, *further):
        one.subset_num_batches = most if one.subset_num_batches is None else one.subset_num_batches
    return [*main, *further]


def _fits(name: str, metric: str) -> bool:
    """Whether Composer takes a name, or a pattern, for this metric."""
    try:
        return re.match(f'.*{name}.*', metric, re.IGNORECASE) is not None
    except re.error as error:
        raise ConfigError(f'evaluators: {name!r} is no name or pattern of a metric: {error}') from error


def _build(config: EvaluatorConfig, model: ComposerModel, batch_size: int, seed: int) -> Evaluator:
    key = f'evaluators ({config.label})'
    known = list(model.get_metrics(is_train=False))
    for name in config.metrics or []:
        if not any(_fits(name, one) for one in known):
            raise ConfigError(f'{key}: the model has no metric {name!r}{nearest(name, known)}')
    loader = build_loader(config, batch_size, seed, train=False)
    check_texts(model, loader.dataset, key)
    return Evaluator(
        label=config.label,
        dataloader=loader,
        metric_names=config.metrics,
        subset_num_batches=config.subset_num_batches,
        eval_interval=config.eval_interval,
    )
