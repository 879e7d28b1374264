"""Evaluates checkpoints: accuracy, loss, number of parameters and size."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from composer import Trainer
from composer.core import Precision
from composer.models import ComposerModel
from rich.table import Table
from torch.utils.data import DataLoader

from composer_kd.algorithms.joint_training import JointTraining
from composer_kd.bench.size import count_parameters, size_in_bytes
from composer_kd.config.schema import EvaluationConfig, RunConfig
from composer_kd.config.text_checks import check_texts
from composer_kd.config.yaml_source import read_source
from composer_kd.errors import ConfigError
from composer_kd.presentation.units import bytes_text, number_text, value_text
from composer_kd.runs.beside import restored
from composer_kd.runs.ending import closing
from composer_kd.runs.ensemble import Ensemble
from composer_kd.runs.evaluators import build_evaluators, evaluators_of
from composer_kd.runs.process import without_remarks
from composer_kd.runs.saved import SavedRun, open_run
from composer_kd.runs.stages import stage_folders
from composer_kd.runs.train import final_metrics

__all__ = [
    'Evaluation',
    'as_table',
    'count_parameters',
    'evaluate',
    'evaluate_all',
    'evaluate_model',
    'evaluate_run',
    'heading_of',
    'measured',
    'metrics_of',
]


@dataclass(frozen=True)
class Evaluation:
    """The results of one checkpoint.

    Args:
        checkpoint: The checkpoint file.
        metrics: Metrics on the evaluation data, by name.
        parameters: The number of parameters of the model.
        size: Bytes of its state dict as saved by ``torch.save``; a training checkpoint is larger.
        beside: The number of parameters and the size of each net that was trained beside the model, by its name; its
            metrics are ``metrics/<evaluator>/<name>/<metric>``.
        address: Where the checkpoint was fetched from; None for one on this machine.
    """

    checkpoint: pathlib.Path
    metrics: dict[str, float]
    parameters: int
    size: int
    beside: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    address: str | None = None

    def of(self, name: str) -> dict[str, float]:
        """The metrics of a net beside the model, under the names that those of the model have; of the model for ``''``.

        Args:
            name: The name of the net.

        Example:
            >>> metrics = {'metrics/eval/Accuracy': 0.9, 'metrics/eval/slow/Accuracy': 0.8}
            >>> found = Evaluation(pathlib.Path('a.pt'), metrics, 15, 100, {'slow': (3, 20)})
            >>> found.of('slow'), found.of('')
            ({'metrics/eval/Accuracy': 0.8}, {'metrics/eval/Accuracy': 0.9})
        """
        return metrics_of(self.metrics, name, list(self.beside))


def metrics_of(metrics: Mapping[str, float], name: str, beside: Sequence[str]) -> dict[str, float]:
    """Selects the metrics of one net of a run.

    Args:
        metrics: The metrics of the run, under the names that Composer logs.
        name: The name of a net that was trained beside the student; ``''`` for the student itself.
        beside: The names of all of these nets.

    Returns:
        Its metrics, under the names that those of a student have.
    """
    found: dict[str, float] = {}
    for key, value in ((key, value) for key, value in metrics.items() if key.startswith('metrics/')):
        label, _, rest = key.removeprefix('metrics/').partition('/')
        owner = next((one for one in beside if rest.startswith(f'{one}/')), '')
        if owner == name:
            found[f'metrics/{label}/{rest.removeprefix(f"{owner}/") if owner else rest}'] = value
    return found


def evaluate(checkpoint: str | pathlib.Path, config: str | pathlib.Path | None = None) -> Evaluation:
    """Rebuilds the model of a checkpoint, loads its weights and evaluates it on its run's evaluation data.

    Args:
        checkpoint: A Composer checkpoint, a plain state dict, or a run folder, whose latest checkpoint is used; also
            behind a URI.
        config: The run's YAML; default: the ``config.yaml`` beside the checkpoint or in a folder above it.

    Returns:
        Its metrics, number of parameters and size.

    Raises:
        CheckpointNotFoundError: If there is no such checkpoint.
        CheckpointError: If it is damaged, unsafe, or does not fit the model.
        ConfigError: If its configuration is not found or has no evaluation data.
    """
    return evaluate_run(_open(str(checkpoint), config))


def as_table(evaluations: Iterable[Evaluation]) -> Table:
    """Formats evaluations as a table for the terminal.

    Args:
        evaluations: One evaluation for each checkpoint.

    Returns:
        A ``rich`` table with the columns checkpoint, one for each metric, parameters and size; below a model the nets
        that were trained beside it.
    """
    evaluations = list(evaluations)
    names = list(dict.fromkeys(name for one in evaluations for net in ('', *one.beside) for name in one.of(net)))
    table = Table()
    table.add_column('checkpoint', overflow='fold')
    for heading in [*map(heading_of, names), 'parameters', 'size']:
        table.add_column(heading, justify='right')
    for evaluation in evaluations:
        sizes = {'': (evaluation.parameters, evaluation.size), **evaluation.beside}
        for net, (parameters, size) in sizes.items():
            values = [value_text(name, evaluation.of(net).get(name)) for name in names]
            first = f'  {net}' if net else evaluation.address or str(evaluation.checkpoint)
            table.add_row(first, *values, number_text(parameters), bytes_text(size))
    return table


_HEADINGS = {
    'MulticlassAccuracy': 'accuracy',
    'CrossEntropy': 'loss',
    'LabelAccuracy': 'accuracy',
    'MaskedAccuracy': 'accuracy',
    'BinaryF1Score': 'F1',
    'MulticlassF1Score': 'F1',
    'LabelF1': 'F1',
    'MatthewsCorrCoef': 'MCC',
    'PearsonCorrCoef': 'Pearson',
    'SpearmanCorrCoef': 'Spearman',
    'MeanSquaredError': 'squared error',
    'LanguageCrossEntropy': 'loss',
    'LanguagePerplexity': 'perplexity',
}


def heading_of(name: str) -> str:
    """The short name of a metric, as tables have it.

    Example:
        >>> heading_of('metrics/eval/MulticlassAccuracy')
        'accuracy'
    """
    label, _, metric = name.removeprefix('metrics/').partition('/')
    heading = _HEADINGS.get(metric, metric)
    return heading if label == 'eval' else f'{label} {heading}'


def evaluate_model(
    model: ComposerModel,
    loader: DataLoader[Any],
    run: EvaluationConfig | RunConfig,
    beside: Sequence[JointTraining] = (),
) -> dict[str, float]:
    """Evaluates a model on the evaluation data of a run, and on that of its further evaluators.

    Args:
        model: The model.
        loader: The data.
        run: The settings of the evaluation.
        beside: The algorithms whose nets are evaluated beside it.

    Returns:
        Its metrics, as Composer calls them.
    """
    further = build_evaluators(run.evaluators, model, run.device_eval_batch_size, run.seed)
    most = run.eval_subset_num_batches
    data = evaluators_of(loader, further, most)
    return measured(model, data, beside, run.precision, run.seed, -1 if further else most)


def measured(
    model: ComposerModel,
    data: Any,
    beside: Sequence[JointTraining] = (),
    precision: Precision | None = None,
    seed: int | None = None,
    most: int = -1,
) -> dict[str, float]:
    """Evaluates a model on any data that Composer evaluates on.

    Args:
        model: The model.
        data: A DataLoader, a DataSpec, an Evaluator, or a list of Evaluators.
        beside: The algorithms whose nets are evaluated beside it.
        precision: The precision on a GPU; None for Composer's default.
        seed: The seed of the evaluation; None for a random one.
        most: The number of batches; -1 for all.

    Returns:
        Its metrics, as Composer calls them.
    """
    with without_remarks():
        trainer = Trainer(
            model=model,
            eval_dataloader=data,
            algorithms=[one.evaluator() for one in beside],
            precision=precision if torch.cuda.is_available() else None,  # the CPU supports one only
            progress_bar=False,
            seed=seed,
        )
        with closing(trainer):
            for one in beside:
                one.move(trainer.state.device)
            trainer.eval(subset_num_batches=most)
            found = final_metrics(trainer)
    return {name: value for name, value in found.items() if name.startswith('metrics/')}


def evaluate_all(checkpoints: Sequence[str], config: str | None = None, together: bool = False) -> list[Evaluation]:
    """Evaluates several checkpoints, after a check that all of them exist.

    Args:
        checkpoints: Checkpoints or run folders.
        config: One YAML for all of them; default: the ``config.yaml`` of each.
        together: Whether to evaluate their :class:`.Ensemble` too, on the evaluation data of the first.

    Returns:
        One evaluation for each checkpoint, and for the ensemble.

    Raises:
        ComposerKDError: As in ``evaluate``.
    """
    runs = [_open(str(one), config) for one in stage_folders(checkpoints)]
    return [*map(evaluate_run, runs), *([_evaluate_together(runs)] if together else [])]


def _open(checkpoint: str, config: str | pathlib.Path | None) -> SavedRun:
    if pathlib.Path(checkpoint).suffix in ('.yaml', '.yml'):
        read_source(checkpoint)  # says more of one that does not exist, or has stages
        raise ConfigError(
            f"{checkpoint} is not a checkpoint: give a checkpoint or a run's folder, and --config {checkpoint}"
        )
    return open_run(checkpoint, config)


def _evaluate_together(runs: Sequence[SavedRun]) -> Evaluation:
    loader = runs[0].loader()
    models = [run.model(getattr(loader.dataset, 'num_classes', None)) for run in runs]
    for model in models:
        check_texts(model, loader.dataset, 'eval_loader')
    ensemble = Ensemble(models)
    metrics = evaluate_model(ensemble, loader, runs[0].config)
    name = pathlib.Path(f'together ({len(runs)})')
    return Evaluation(name, metrics, count_parameters(ensemble), sum(map(size_in_bytes, models)))


def evaluate_run(run: SavedRun) -> Evaluation:
    """Evaluates an opened run, as :func:`evaluate` does.

    Args:
        run: A run with a checkpoint.

    Returns:
        Its metrics, number of parameters and size.

    Raises:
        ComposerKDError: As :func:`evaluate`.
    """
    loader = run.loader()
    model = run.model(getattr(loader.dataset, 'num_classes', None))
    check_texts(model, loader.dataset, 'eval_loader')
    assert run.checkpoint is not None
    joint = restored(run, model)
    metrics = evaluate_model(model, loader, run.config, joint)
    batch = next(iter(run.batches(loader))) if joint else None
    beside = {
        name: (count_parameters(net.model), size_in_bytes(net.model))
        for one in joint
        for name, net in one.nets(batch).items()
    }
    return Evaluation(run.checkpoint, metrics, count_parameters(model), size_in_bytes(model), beside, run.address)
