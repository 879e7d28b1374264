"""Trains a run from a checked configuration, and writes its run folder."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from composer import Callback, Trainer
from composer.utils import dist
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.callbacks.cost import PREFIX as COST
from composer_kd.callbacks.cost import TrainingCost
from composer_kd.callbacks.history import HISTORY_FILE, HistoryLogger
from composer_kd.config.load import as_mapping
from composer_kd.config.schema import RunConfig
from composer_kd.presentation.files import write_file
from composer_kd.presentation.units import cost_text, metric_text
from composer_kd.runs.build import build_trainer
from composer_kd.runs.files import CONFIG_FILE, METRICS_FILE
from composer_kd.runs.loaders import evaluation_data
from composer_kd.runs.process import keep_freed_memory, without_remarks

__all__ = ['CONFIG_FILE', 'final_metrics', 'train']


def train(config: RunConfig, callbacks: Sequence[Callback] = (), quiet: bool = False) -> dict[str, float]:
    """Trains, evaluates and saves a run.

    The run folder gets the checkpoints, ``config.yaml`` with all defaults included, ``metrics.json``, and in
    ``history.jsonl`` the values logged for each batch (``composer_kd.callbacks.history``). With ``autoresume``, a
    stopped run continues from its latest checkpoint; a finished run is only evaluated, and keeps the losses and costs
    in its ``metrics.json``.

    Args:
        config: The checked configuration, from ``load_config``.
        callbacks: Callbacks and loggers in addition to those in the YAML.
        quiet: Whether to omit the table at the end.

    Returns:
        The final metrics: those of the last evaluation, the losses of the last batch, the trained epochs, batches and
        samples, and the training cost (:class:`composer_kd.callbacks.cost.TrainingCost`).

    Raises:
        ComposerKDError: If data, a checkpoint or a setting is wrong. Raised before the first batch.

    Example:
        >>> import contextlib, io
        >>> from composer_kd.config.load import load_config
        >>> overrides = ['max_duration=1ba', 'save_folder=null', 'progress_bar=false']
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     metrics = train(load_config('yamls/digits/student.yaml', overrides))
        >>> metrics['time/batch']
        1
    """
    keep_freed_memory()
    with without_remarks():
        trainer = build_trainer(config, [*_recorders(config), *callbacks])
        try:
            noted = _noted(trainer, config)
            _write_config(config)
            _fit_or_evaluate(trainer, config)
            metrics = {**final_metrics(trainer), **noted}
        finally:
            trainer.close()
    _write_metrics(config, metrics)
    if not quiet:
        _summarise(config, metrics)
    return metrics


def _fit_or_evaluate(trainer: Trainer, config: RunConfig) -> None:
    if not _is_done(trainer):
        trainer.fit()
        return
    # Composer raises an error if no time is left to train; restarting the job of a finished run should succeed.
    _say(f'{config.run_name} had already reached {config.max_duration}: it is evaluated, not trained')
    if evaluation_data(config.train_loader, config.eval_loader) is not None:
        trainer.eval(subset_num_batches=config.eval_subset_num_batches)


def _recorders(config: RunConfig) -> list[Callback]:
    history = [HistoryLogger(config.folder)] if config.folder is not None else []
    return [TrainingCost(), *history]


def final_metrics(trainer: Trainer) -> dict[str, float]:
    """Collects the final metrics of a trainer. Call it on every rank, because metrics are summed over the ranks.

    Args:
        trainer: A trainer after ``fit()``.

    Returns:
        Numbers by the names under which Composer logs them. Composer's train metrics are left out, because they cover
        a single batch.
    """
    state = trainer.state
    metrics = {
        f'metrics/{label}/{name}': float(metric.compute())
        for label, group in state.eval_metrics.items()
        for name, metric in group.items()
        if metric.update_called
    }
    for algorithm in state.algorithms:
        if isinstance(algorithm, DistillationAlgorithm):
            metrics.update(algorithm.final_metrics())
    losses = getattr(state, 'total_loss_dict', None) or {}
    metrics.update({name: float(value) for name, value in losses.items()})
    for callback in state.callbacks:
        if isinstance(callback, TrainingCost):
            metrics.update(callback.values)
    metrics.update({f'time/{unit}': int(getattr(state.timestamp, unit)) for unit in ('epoch', 'batch', 'sample')})
    return metrics


def _is_done(trainer: Trainer) -> bool:
    end = trainer.state.max_duration
    return bool(end is not None and trainer.state.timestamp.get(end.unit) >= end)


def _folder(config: RunConfig) -> pathlib.Path | None:
    return config.folder if dist.get_global_rank() == 0 else None


def _noted(trainer: Trainer, config: RunConfig) -> dict[str, float]:
    """The losses and costs of an already finished run, whose checkpoint contains no losses and only some of the costs.

    Deletes the ``metrics.json`` of an unfinished run, which comes from other settings or an earlier training.
    """
    file = config.folder / METRICS_FILE if config.folder is not None else None
    if file is None or not file.is_file():
        return {}
    if _is_done(trainer):
        with contextlib.suppress(ValueError):  # a damaged file
            noted = json.loads(file.read_text(encoding='utf-8'))
            if noted.get('time/batch') == int(trainer.state.timestamp.batch):
                return {name: value for name, value in noted.items() if name.startswith(('loss/', COST))}
    elif dist.get_global_rank() == 0:
        file.unlink(missing_ok=True)
    return {}


def _write_config(config: RunConfig) -> None:
    folder = _folder(config)
    if folder is not None:
        write_file(folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(as_mapping(config))))


def _write_metrics(config: RunConfig, metrics: dict[str, float]) -> None:
    folder = _folder(config)
    if folder is not None:
        write_file(folder / METRICS_FILE, json.dumps(metrics, indent=2) + '\n')


def _summarise(config: RunConfig, metrics: dict[str, float]) -> None:
    table = Table(title=f'{config.run_name} after {int(metrics["time/batch"]):,} batches', title_justify='left')
    table.add_column('metric')
    table.add_column('value', justify='right')
    for name, value in metrics.items():
        if not name.startswith('time/'):
            table.add_row(name, cost_text(name, value) if name.startswith(COST) else metric_text(value))
    _say(table)
    if config.folder is not None:
        _say(f'checkpoints, {CONFIG_FILE}, {METRICS_FILE} and {HISTORY_FILE} are in {config.folder}')


def _say(what: Any) -> None:
    if dist.get_global_rank() == 0:
        Console().print(what, highlight=False, markup=False, soft_wrap=isinstance(what, str))
