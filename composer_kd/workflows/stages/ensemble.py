"""Evaluates the generations of a stage together."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader

from composer_kd.config.schema import RunConfig
from composer_kd.config.stages import Stage
from composer_kd.runs.build import build_model
from composer_kd.runs.ensemble import Ensemble
from composer_kd.runs.evaluate import evaluate_model
from composer_kd.runs.loaders import build_loader, evaluation_data
from composer_kd.teachers import load_weights

__all__ = ['build_ensemble', 'evaluate_together', 'evaluation_loader']


def evaluation_loader(config: RunConfig) -> DataLoader[Any] | None:
    """Builds the DataLoader of the evaluation data of a run; None if there is none."""
    data = evaluation_data(config.train_loader, config.eval_loader)
    return None if data is None else build_loader(data, config.device_eval_batch_size, config.seed, train=False)


def build_ensemble(configs: Sequence[RunConfig], files: Sequence[pathlib.Path], loader: DataLoader[Any]) -> Ensemble:
    """Builds the ensemble of several runs.

    Args:
        configs: The settings of the runs.
        files: The checkpoint of each.
        loader: The evaluation data.

    Returns:
        The ensemble.

    Raises:
        CheckpointError: If a checkpoint does not fit its model.
    """
    members = []
    for config, file in zip(configs, files):
        member = build_model(config.model, getattr(loader.dataset, 'num_classes', None))
        load_weights(member, file)
        members.append(member)
    return Ensemble(members)


def evaluate_together(stages: Sequence[Stage]) -> dict[str, float]:
    """Evaluates the mean of the probabilities of several stages on the evaluation data of the first.

    Args:
        stages: The stages, which have finished.

    Returns:
        The metrics of the ensemble; empty without evaluation data.
    """
    config = stages[0].config
    loader = evaluation_loader(config)
    if loader is None:
        return {}
    ensemble = build_ensemble([one.config for one in stages], [one.latest for one in stages], loader)
    return evaluate_model(ensemble, loader, config)
