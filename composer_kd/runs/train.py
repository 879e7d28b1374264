"""Trains a run from a checked configuration, and writes its run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence

from composer import Callback, Trainer
from composer.utils import dist
from omegaconf import OmegaConf
from rich.table import Table

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.algorithms.settings import log_settings
from composer_kd.callbacks.cost import PREFIX as COST
from composer_kd.callbacks.cost import TrainingCost
from composer_kd.callbacks.history import HISTORY_FILE, HistoryLogger
from composer_kd.config.load import as_mapping
from composer_kd.config.schema import RunConfig
from composer_kd.presentation.files import write_file
from composer_kd.presentation.units import cost_text, value_text
from composer_kd.runs.build import build_trainer
from composer_kd.runs.ending import closing, full_disk_said, release, where_it_stands
from composer_kd.runs.files import CONFIG_FILE, METRICS_FILE
from composer_kd.runs.finished import is_finished, last_losses, noted_metrics
from composer_kd.runs.folder import alone_in, clear, holds_run
from composer_kd.runs.process import keep_freed_memory, say, without_remarks
from composer_kd.runs.remote import put
from composer_kd.runs.trackers import mark_resume

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
        quiet: Whether to omit the table at the end, and where the run stands if a signal ends it.

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
    with without_remarks(), alone_in(_folder(config)), full_disk_said(config.folder):
        trainer = build_trainer(config, [*_recorders(config), *callbacks])
        with closing(trainer), contextlib.nullcontext() if quiet else where_it_stands(trainer, config):
            metrics = _fit_or_evaluate(trainer, config)
        release(trainer)
    if not quiet:
        _summarise(config, metrics)
    return metrics


def _fit_or_evaluate(trainer: Trainer, config: RunConfig) -> dict[str, float]:
    found = [(is_finished(trainer, config), noted_metrics(trainer, config))]
    dist.broadcast_object_list(found)  # other nodes may not see the folder; also waits until all ranks have loaded
    finished, noted = found[0]
    if finished:
        return _evaluate_again(trainer, config, noted)
    _begin_record(config)
    mark_resume(trainer)
    _log_settings(trainer, config)
    trainer.fit()
    return _write_metrics(trainer, config)


def _evaluate_again(trainer: Trainer, config: RunConfig, noted: dict[str, float]) -> dict[str, float]:
    """Evaluates a finished run, and leaves its record as it is. Composer would raise an error: no time is left."""
    say(f'{config.run_name} had already reached {config.max_duration}: it is evaluated, not trained')
    for destination in trainer.logger.destinations:
        if isinstance(destination, HistoryLogger):
            destination.mute()
    if trainer.state.evaluators:
        trainer.eval()
    if noted:
        return noted
    if config.remote_folder is not None:
        return final_metrics(trainer)  # the record there has the losses and the cost too
    folder = _folder(config)
    if folder is not None and not holds_run(folder):  # the checkpoint is that of load_path
        _write_config(config, folder)
    return _write_metrics(trainer, config)


def _recorders(config: RunConfig) -> list[Callback]:
    if config.folder is None:
        return [TrainingCost()]
    return [TrainingCost(), HistoryLogger(config.folder, goes_on=config.autoresume and holds_run(config.folder))]


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


def _folder(config: RunConfig) -> pathlib.Path | None:
    return config.folder if dist.get_global_rank() == 0 else None


def _begin_record(config: RunConfig) -> None:
    """Writes the settings, and deletes what would be taken for this run's: of one that is replaced, or was shorter."""
    folder = _folder(config)
    if folder is not None:
        if config.autoresume:
            (folder / METRICS_FILE).unlink(missing_ok=True)
        else:
            clear(folder)
        _write_config(config, folder)
    elif config.remote_folder is not None and dist.get_global_rank() == 0:
        put(config.remote_folder, CONFIG_FILE, _settings(config))


def _settings(config: RunConfig) -> str:
    """The settings of a run as they are recorded, in YAML."""
    # That this run replaced another one says nothing of the runs that are started with its settings.
    lasting = dataclasses.replace(config, save_overwrite=None)
    return OmegaConf.to_yaml(OmegaConf.create(as_mapping(lasting)))


def _write_config(config: RunConfig, folder: pathlib.Path) -> None:
    write_file(folder / CONFIG_FILE, _settings(config))


def _log_settings(trainer: Trainer, config: RunConfig) -> None:
    """Gives the whole configuration to every logger; what the algorithms were given is in it."""
    for algorithm in trainer.state.algorithms:
        if isinstance(algorithm, DistillationAlgorithm):
            algorithm.logs_settings = False
    log_settings(trainer.logger.destinations, as_mapping(config))


def _write_metrics(trainer: Trainer, config: RunConfig) -> dict[str, float]:
    metrics = final_metrics(trainer)
    if not any(name.startswith('loss/') for name in metrics):  # the last batch was trained before the run was killed
        metrics = {**metrics, **last_losses(config.folder)}
    folder = _folder(config)
    text = json.dumps(metrics, indent=2) + '\n'
    if folder is not None:
        write_file(folder / METRICS_FILE, text)
    elif config.remote_folder is not None and dist.get_global_rank() == 0:
        put(config.remote_folder, METRICS_FILE, text)
    return metrics


def _summarise(config: RunConfig, metrics: dict[str, float]) -> None:
    table = Table(title=f'{config.run_name} after {int(metrics["time/batch"]):,} batches', title_justify='left')
    table.add_column('metric')
    table.add_column('value', justify='right')
    for name, value in metrics.items():
        if not name.startswith('time/'):
            table.add_row(name, cost_text(name, value) if name.startswith(COST) else value_text(name, value))
    say(table)
    if config.folder is not None:
        say(f'checkpoints, {CONFIG_FILE}, {METRICS_FILE} and {HISTORY_FILE} are in {config.folder}')
