"""Writes the model card of an exported student from its run, its files and measurements; unknown facts are omitted."""

from __future__ import annotations

import importlib.metadata
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torchvision.transforms import Normalize, v2

from composer_kd.bench.results import Row
from composer_kd.data import ImageTensors
from composer_kd.deploy.card import Card
from composer_kd.deploy.exporter import Exported
from composer_kd.deploy.targets import Student
from composer_kd.models import SentenceEncoder
from composer_kd.presentation.markdown import code, fenced
from composer_kd.presentation.paths import last_parts
from composer_kd.presentation.tables import Table
from composer_kd.presentation.templates import render
from composer_kd.presentation.units import bytes_text, metric_text, number_text, percent, seconds_text, times
from composer_kd.runs.beside import name_of_net
from composer_kd.runs.evaluate import count_parameters, evaluate_run, metrics_of
from composer_kd.runs.files import latest_in
from composer_kd.runs.saved import SavedRun
from composer_kd.workflows.export.origins import evaluated_on, origins

__all__ = ['Measured', 'final_or_measured', 'model_card', 'preparation']

_TOLD = (
    *('model', 'algorithms', 'train_loader', 'eval_loader', 'optimizer', 'scheduler', 'max_duration'),
    *('global_train_batch_size', 'seed', 'precision'),
)
_OF_A_LOADER = ('dataset', 'hold_out', 'hold_out_seed', 'samples_per_epoch')
_SHARES = ('MulticlassAccuracy', 'top1')
_WORDS = {
    'MulticlassAccuracy': 'accuracy, %',
    'CrossEntropy': 'cross-entropy',
    'LanguageCrossEntropy': 'cross-entropy',
    'LanguagePerplexity': 'perplexity',
    'agreement/top1': 'same class first as the teachers, %',
    'agreement/kl': 'KL(teachers || student), nats',
    'teacher/MulticlassAccuracy': "the teachers' accuracy, %",
    'teacher/CrossEntropy': "the teachers' cross-entropy",
}
_OF_THE_HUB = {'MulticlassAccuracy': 'accuracy', 'LanguagePerplexity': 'perplexity'}
_UNITS = {'epoch': 'epochs', 'batch': 'batches', 'sample': 'samples'}
_PROBLEMS = {'regression': ('scores', ''), 'multi_label_classification': ('logits', 'not yet a sigmoid')}
_TASKS = {
    'ForSequenceClassification': 'text-classification',
    'ForTokenClassification': 'token-classification',
    'ForQuestionAnswering': 'question-answering',
    'ForMaskedLM': 'fill-mask',
    'ForCausalLM': 'text-generation',
    'LMHeadModel': 'text-generation',
    'ForImageClassification': 'image-classification',
}


def model_card(
    run: SavedRun,
    student: Student,
    exported: Exported,
    measured: Measured,
    rows: Sequence[Row] = (),
    command: str = '',
    net: str | None = None,
    license: str | None = None,
) -> str:
    """Writes the model card of an exported student.

    Args:
        run: The run that trained the student.
        student: The student.
        exported: The exported files and the result of their verification.
        measured: The metrics of the checkpoint, from ``final_or_measured``.
        rows: The benchmark results of the run.
        command: The command line of the export.
        net: The name of the net beside the student that was exported in its place; ``None`` for the student.
        license: The licence of the export, as the hub calls it; ``None`` to leave it open.

    Returns:
        Markdown with the front matter that the Hugging Face hub reads.
    """
    main = {name.removeprefix('metrics/eval/'): value for name, value in measured.metrics.items()}
    known = origins(run)
    card = Card(
        title=run.name if net is None else name_of_net(run, net),
        summary=_summary(run, student, net),
        library=exported.target.library,
        task=_task(student),
        dataset=measured.on,
        metrics={known: round(main[name], 6) for name, known in _OF_THE_HUB.items() if name in main},
        tags=('knowledge-distillation', 'composer_kd') if run.is_distilled else ('composer_kd',),
        license=license,
        base_models=known.base_models,
        datasets=known.datasets,
        evaluated=evaluated_on(run),
    )
    return render(
        'workflows/export/model_card.md.j2',
        card=card,
        exported=exported,
        measured=measured,
        inputs=[
            (name, str(tensor.dtype).removeprefix('torch.'), _shape(tensor))
            for name, tensor in zip(student.inference.input_names, student.example)
        ],
        answer=_shape(_answers(student)),
        kind=_kind_of_answer(student.inference.model),
        preparation=student.preparation.strip(),
        numbers=_numbers(student, exported, measured),
        versions=[f'{name} {importlib.metadata.version(name)}' for name in ('torch', *exported.target.packages)],
        speed=_speed(rows),
        command=last_parts(command),
        origins=known,
        composer_kd=importlib.metadata.version('composer_kd'),
        **_training(run),
    )


@dataclass(frozen=True)
class Measured:
    """The metrics of a checkpoint.

    Args:
        metrics: The metrics, under the names that Composer logs.
        on: A description of the evaluation data.
    """

    metrics: dict[str, float]
    on: str

    def of(self, net: str, beside: Sequence[str]) -> Measured:
        """The metrics of one net of the run.

        Args:
            net: The name of a net that was trained beside the student; ``''`` for the student.
            beside: The names of all of these nets.
        """
        return Measured(metrics_of(self.metrics, net, beside), self.on)


def final_or_measured(run: SavedRun) -> Measured:
    """Returns the metrics of a run's checkpoint on the run's evaluation data.

    Args:
        run: A run with a checkpoint.

    Returns:
        The final metrics that the run saved, if the checkpoint is its latest; else those of an evaluation, which runs
        now.
    """
    assert run.checkpoint is not None
    noted = {name: value for name, value in run.metrics.items() if name.startswith('metrics/')}
    if noted and _is_latest(run):
        return Measured(noted, _noted_on(run))
    return Measured(evaluate_run(run).metrics, _words(run, run.written.get('eval_loader') or {}))


def preparation(dataset: Any) -> str:
    """Describes how a data set turns raw samples into model inputs.

    Args:
        dataset: A data set, or a view of one.

    Returns:
        A sentence in Markdown; ``''`` if the preprocessing is unknown.

    Example:
        >>> from composer_kd.data import digits
        >>> preparation(digits())
        'Pixels as the data set holds them (whole numbers), minus 4.891, divided by 6.024.'
    """
    while not isinstance(dataset, ImageTensors) and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    if isinstance(dataset, ImageTensors):
        shift, spread = (_per_channel(values.flatten().tolist()) for values in (dataset.shift, dataset.spread))
        resized = '' if dataset.size is None else f', resized to {dataset.size} x {dataset.size}'
        return f'Pixels as the data set holds them (whole numbers), minus {shift}, divided by {spread}{resized}.'
    transform = getattr(dataset, 'transform', None)
    if any(isinstance(one, Normalize | v2.Normalize) for one in getattr(transform, 'transforms', ())):
        return f'Images go through these torchvision transforms:\n\n{fenced(str(transform), "text")}'
    return ''


def _per_channel(values: Sequence[float]) -> str:
    said = [f'{value:.4g}' for value in values]
    return said[0] if len(said) == 1 else f'({", ".join(said)}) per channel'


def _summary(run: SavedRun, student: Student, net: str | None) -> str:
    parameters = f'{count_parameters(student.inference.model):,}'
    if net is not None:
        return (
            f'`{net}`, a net with {parameters} parameters that was trained beside the student {run.name} '
            f'(`{run.config.model.name}`), with Composer and composer_kd.'
        )
    taught = ''
    if run.is_distilled:
        names = dict.fromkeys(teacher.name or teacher.model.name for teacher in run.config.teachers)
        names = names or dict.fromkeys(one.name or pathlib.Path(one.folder).name for one in run.config.stored)
        taught = f', distilled from {" and ".join(names)}'
    return (
        f'`{type(student.inference.model).__name__}` with {parameters} parameters{taught}, trained with Composer '
        'and composer_kd.'
    )


def _task(student: Student) -> str | None:
    name = type(student.inference.model).__name__
    said = next((task for ending, task in _TASKS.items() if name.endswith(ending)), None)
    if said is not None or student.inference.names:
        return said
    return 'image-classification' if student.example[0].ndim == 4 and _answers(student).ndim == 2 else None


def _answers(student: Student) -> Tensor:
    with torch.no_grad():
        return student.inference(*student.example)


def _kind_of_answer(model: Any) -> tuple[str, str]:
    """What a model answers with, and how classes are made of it; ``''`` if it answers with none."""
    if isinstance(model, SentenceEncoder):
        return 'vectors', ''
    problem = str(getattr(getattr(model, 'config', None), 'problem_type', None))
    return _PROBLEMS.get(problem, ('logits', 'not yet a softmax'))


def _shape(tensor: Tensor) -> str:
    return f'(N, {", ".join(map(str, tensor.shape[1:]))})'


def _numbers(student: Student, exported: Exported, measured: Measured) -> Table:
    rows = [[_said(name), _value(name, value)] for name, value in measured.metrics.items()]
    rows.append(['parameters', number_text(count_parameters(student.inference.model))])
    rows += [[code(name), bytes_text(size)] for name, size in exported.files.items()]
    return Table.of(['', ''], rows)


def _said(name: str) -> str:
    label, _, metric = name.removeprefix('metrics/').partition('/')
    words = _WORDS.get(metric, metric)
    return words if label == 'eval' else f'{label}: {words}'


def _value(name: str, value: float) -> str:
    return f'{100 * value:.2f}' if name.endswith(_SHARES) else metric_text(value)


def _speed(rows: Sequence[Row]) -> Table:
    header = ['run as', 'latency, one sample', 'times as quick as its teacher', 'samples/s, best', 'agreement, %']
    return Table.of(header, [_speed_of(row) for row in rows if row.failed is None]).without_empty()


def _speed_of(row: Row) -> list[str]:
    best, gain = row.best_throughput, row.speed_up
    gained = '' if gain is None else f'{times(gain.median)} ({times(gain.low)} to {times(gain.high)}, {gain.against})'
    return [
        str(row.setting),
        '' if row.latency is None else seconds_text(row.latency.p50),
        gained,
        '' if best is None else f'{number_text(best.samples_per_second)} at {best.batch}',
        percent(row.agreement),
    ]


def _noted_on(run: SavedRun) -> str:
    """Describes the data of a run's saved metrics: the held-out part of the training data, if there is one."""
    train, evaluation = (run.written.get(key) or {} for key in ('train_loader', 'eval_loader'))
    loader = train if train.get('hold_out') is not None and evaluation.get('hold_out') is None else evaluation
    return _words(run, loader)


def _words(run: SavedRun, loader: Mapping[str, Any]) -> str:
    """Describes the data set of an evaluation's loader, with its options and the number of samples."""
    most = run.config.eval_subset_num_batches
    part = [f'the first {most * run.config.device_eval_batch_size:,} samples'] if most != -1 else []
    return _words_of(loader, part)


def _words_of(loader: Mapping[str, Any], part: Sequence[str] = ()) -> str:
    dataset = dict(loader.get('dataset') or {})
    name = str(dataset.pop('name', 'data'))
    said = [f'{key}: {value}' for key, value in dataset.items() if isinstance(value, str | int | float)]
    said += [f'held out: {loader["hold_out"]}'] if loader.get('hold_out') is not None else []
    said += part
    return last_parts(name + (f' ({", ".join(said)})' if said else ''))


def _training(run: SavedRun) -> dict[str, Any]:
    """Collects the template's variables about the training."""
    assert run.checkpoint is not None
    told = {key: _without_defaults(run.written[key]) for key in _TOLD if run.written.get(key) not in (None, {}, [])}
    for key in ('train_loader', 'eval_loader'):
        if key in told:
            told[key] = {name: told[key][name] for name in _OF_A_LOADER if told[key].get(name)}
    units = {f'time/{unit}': plural for unit, plural in _UNITS.items()}
    is_last = _is_latest(run) and all(name in run.metrics for name in units)
    return {
        'checkpoint': run.checkpoint.name,
        'trained_on': _words_of(run.written.get('train_loader') or {}),
        'teachers': [
            (teacher.name or teacher.model.name, last_parts(teacher.checkpoint or ''))
            for teacher in run.config.teachers
        ],
        'trained': [f'{run.metrics[name]:,.0f} {plural}' for name, plural in units.items()] if is_last else [],
        'settings': last_parts(OmegaConf.to_yaml(OmegaConf.create(told))),
    }


def _without_defaults(value: Any) -> Any:
    """Drops entries that are ``None``, at all levels."""
    if isinstance(value, Mapping):
        return {key: _without_defaults(one) for key, one in value.items() if one is not None}
    return [_without_defaults(one) for one in value] if isinstance(value, list) else value


def _is_latest(run: SavedRun) -> bool:
    """Whether the checkpoint is the latest of the folder that the run's records lie in."""
    assert run.checkpoint is not None
    return run.folder is not None and latest_in(run.folder).absolute() == run.checkpoint.absolute()
