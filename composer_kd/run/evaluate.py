"""Says what checkpoints are worth: accuracy, loss, parameters and size of each."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from composer import Trainer
from rich.table import Table
from torch.utils.data import DataLoader

from composer_kd.errors import CheckpointNotFoundError, ConfigError
from composer_kd.run.build import build_model
from composer_kd.run.config import EvaluationConfig, load_evaluation_config
from composer_kd.run.loaders import build_loader
from composer_kd.run.quiet import without_remarks
from composer_kd.run.train import CONFIG_FILE, final_metrics
from composer_kd.teachers import load_weights

__all__ = [
    'Evaluation',
    'as_table',
    'count_parameters',
    'evaluate',
    'evaluate_all',
    'find_config',
    'size_in_bytes',
]

LATEST = 'latest-rank0.pt'
PARENTS_SEARCHED = 3


@dataclass(frozen=True)
class Evaluation:
    """What one checkpoint is worth.

    Args:
        checkpoint: The file.
        metrics: Metrics on the evaluation data, by name.
        parameters: How many parameters the model has.
        size: Bytes of its state dict as ``torch.save`` writes it; a training checkpoint holds more.
    """

    checkpoint: pathlib.Path
    metrics: dict[str, float]
    parameters: int
    size: int


def evaluate(checkpoint: str | pathlib.Path, config: str | pathlib.Path | None = None) -> Evaluation:
    """Rebuilds the model of a checkpoint, loads its weights and evaluates it on its run's evaluation data.

    Args:
        checkpoint: A Composer checkpoint or a plain state dict; of a run's folder the latest one.
        config: The run's YAML; by default the ``config.yaml`` beside the checkpoint or in a folder above it.

    Returns:
        Metrics, parameters and size.

    Raises:
        CheckpointNotFoundError: If there is no such checkpoint.
        CheckpointError: If it is damaged, unsafe, or does not fit the model.
        ConfigError: If its configuration is not found or has no evaluation data.
    """
    path = _checkpoint_file(str(checkpoint))
    run = load_evaluation_config(config if config is not None else find_config(path))
    if run.eval_loader is None:
        raise ConfigError(f'{path}: its run has no eval_loader, so there is nothing to evaluate it on')
    loader = build_loader(run.eval_loader, run.device_eval_batch_size, run.seed, train=False)
    model = build_model(run.model, getattr(loader.dataset, 'num_classes', None))
    load_weights(model, path)
    return Evaluation(path, _metrics(model, loader, run), count_parameters(model), size_in_bytes(model))


def find_config(checkpoint: pathlib.Path) -> pathlib.Path:
    """Finds the configuration that a run saved with its checkpoints.

    Args:
        checkpoint: A checkpoint file.

    Returns:
        The nearest ``config.yaml``: in its folder, or at most three folders up.

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


def count_parameters(module: torch.nn.Module) -> int:
    """Counts the parameters of a module.

    Args:
        module: Any module.

    Returns:
        The number of its parameters, shared ones once.

    Example:
        >>> count_parameters(torch.nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in module.parameters())


def size_in_bytes(module: torch.nn.Module) -> int:
    """Measures what a module takes on disk.

    Args:
        module: Any module.

    Returns:
        Bytes of its state dict as ``torch.save`` writes it.

    Example:
        >>> size_in_bytes(torch.nn.Linear(1000, 1)) > 4000
        True
    """
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    return buffer.getbuffer().nbytes


def as_table(evaluations: Iterable[Evaluation]) -> Table:
    """Sets evaluations out for the terminal.

    Args:
        evaluations: One for each checkpoint.

    Returns:
        A table for ``rich``: checkpoint, every metric, parameters, size.
    """
    evaluations = list(evaluations)
    names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.metrics))
    table = Table()
    table.add_column('checkpoint', overflow='fold')
    for heading in [*map(_heading, names), 'parameters', 'size, kB']:
        table.add_column(heading, justify='right')
    for evaluation in evaluations:
        values = [f'{evaluation.metrics[name]:.4f}' if name in evaluation.metrics else '' for name in names]
        table.add_row(
            str(evaluation.checkpoint),
            *values,
            f'{evaluation.parameters:,}',
            f'{evaluation.size / 1000:,.1f}',
        )
    return table


_HEADINGS = {'MulticlassAccuracy': 'accuracy', 'CrossEntropy': 'loss'}


def _heading(name: str) -> str:
    label, _, metric = name.removeprefix('metrics/').partition('/')
    heading = _HEADINGS.get(metric, metric)
    return heading if label == 'eval' else f'{label} {heading}'


def _checkpoint_file(written: str) -> pathlib.Path:
    if '://' in written:
        raise ConfigError(f'{written}: a URI cannot be evaluated; copy the checkpoint to this machine first')
    path = pathlib.Path(written)
    if path.suffix in ('.yaml', '.yml'):
        raise ConfigError(f"{written} is not a checkpoint: give a checkpoint or a run's folder, and --config {written}")
    file = path / LATEST if path.is_dir() else path
    if not file.is_file():
        inside = f' (a folder without {LATEST})' if path.is_dir() else ''
        raise CheckpointNotFoundError(f'no checkpoint {str(path)!r}{inside}; looked from {pathlib.Path.cwd()}')
    return file


def _metrics(model: torch.nn.Module, loader: DataLoader[Any], run: EvaluationConfig) -> dict[str, float]:
    precision = run.precision if torch.cuda.is_available() else None  # the CPU has one only
    with without_remarks():
        trainer = Trainer(model=model, eval_dataloader=loader, precision=precision, progress_bar=False, seed=run.seed)
        try:
            trainer.eval(subset_num_batches=run.eval_subset_num_batches)
            found = final_metrics(trainer)
        finally:
            trainer.close()
    return {name: value for name, value in found.items() if name.startswith('metrics/')}


def evaluate_all(checkpoints: Sequence[str], config: str | None = None) -> list[Evaluation]:
    """Evaluates several checkpoints, all of them looked for before the first is evaluated.

    Args:
        checkpoints: Files or folders of runs.
        config: The YAML of them all; by default each one's own.

    Returns:
        One evaluation each.

    Raises:
        ComposerKDError: As ``evaluate`` does.
    """
    for checkpoint in checkpoints:
        path = _checkpoint_file(str(checkpoint))
        if config is None:
            find_config(path)
    return [evaluate(checkpoint, config) for checkpoint in checkpoints]
