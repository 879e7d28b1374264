"""Reports on models of a script, and on runs."""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from composer_kd.bench import BenchResults, Candidate, environment
from composer_kd.errors import ConfigError, nearest
from composer_kd.reports import Evidence, ModelEvidence, Report, write_report
from composer_kd.runs.compared import ComparedModel
from composer_kd.runs.files import make_folder
from composer_kd.trained.data import Data
from composer_kd.trained.models import Models, TaughtBy, candidates_of, class_of, listed_in
from composer_kd.trained.needed import require_data
from composer_kd.workflows.report import ReportOptions
from composer_kd.workflows.report import report as report_runs
from composer_kd.workflows.report.gather import curves_in
from composer_kd.workflows.report.predict import Answering
from composer_kd.workflows.report.timings import measured_now

__all__ = ['report']

_OF_RUNS = {
    'data': 'runs are compared on their own evaluation data',
    'bench': 'for runs, bench(..., out=FOLDER) beside the folder of the report is found there',
    'taught_by': 'runs know their teachers',
    'histories': 'runs have their own, in their folders',
}


def report(
    models: Models,
    data: Any = None,
    *,
    taught_by: TaughtBy | None = None,
    out: str | os.PathLike[str] = 'runs/report',
    bench: BenchResults | None = None,
    with_bench: bool = True,
    histories: Mapping[str, str | os.PathLike[str]] | None = None,
) -> Report:
    """Writes the page that compares models, as ``composer-kd report`` does.

    Args:
        models: Modules of a script: a list, or by name. Or a list of run folders, which know more: settings, seeds,
            costs.
        data: For modules, a DataLoader whose batches come in the same order each time. None for runs.
        taught_by: The teachers of each distilled student, by name: ``{'student': 'teacher'}``. Runs know their
            teachers.
        out: The folder for the page, Markdown, JSON, CSV and plots.
        bench: What :func:`bench` measured; None to time the models for a moment.
        with_bench: Whether the page tells speed.
        histories: For the training curves of modules: the folders in which a
            :class:`composer_kd.callbacks.HistoryLogger` of their Trainers wrote, by name.

    Returns:
        The report; ``report.verdict`` says it in sentences, the page is ``report.html`` in ``out``.

    Raises:
        ConfigError: If data is missing or comes in another order each time, modules and runs are mixed, or runs are
            given what they have of their own.

    Example:
        >>> import tempfile, torch
        >>> from torch import nn
        >>> batch = torch.randn(8, 4), torch.randint(3, (8,))
        >>> models = {'teacher': nn.Linear(4, 3), 'student': nn.Linear(4, 3)}
        >>> found = report(models, batch, taught_by={'student': 'teacher'}, out=tempfile.mkdtemp(), with_bench=False)
        >>> [group.role for group in found.groups]
        ['teacher', 'student distilled']
    """
    folder = pathlib.Path(out)
    if not any(isinstance(one, nn.Module) for one in listed_in(models)):
        return _of_runs(models, folder, with_bench, data=data, taught_by=taught_by, bench=bench, histories=histories)
    if data is None:
        require_data(None)
    make_folder(folder, 'out')
    read = Data(data)
    listed = candidates_of(models, taught_by, read.num_classes)
    _refuse_runs(listed)
    for name in histories or {}:
        if all(one.name != name for one in listed):
            raise ConfigError(f'histories: {name!r} is none of the models{nearest(name, [one.name for one in listed])}')
    answering = Answering(read.loader, read.batches, read.description)
    evidence = [_recorded(answering(one), (histories or {}).get(one.name)) for one in listed]
    timings, source = bench, 'Timings: measured in the script.' if bench is not None else ''
    if with_bench and timings is None:
        timings, source = measured_now(evidence, read.batches())
    made = Report(
        Evidence(
            models=tuple(evidence),
            evaluation=answering.evaluation_set(),
            bench=timings if with_bench else None,
            bench_source=source if with_bench else '',
            environment=environment([answering.device.type]),
            notes=('These models come from a script: their settings, seeds and costs are not known here.',),
            created=datetime.datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z'),
        )
    )
    write_report(made, folder)
    return made


def _of_runs(models: Models, folder: pathlib.Path, with_bench: bool, **given: object) -> Report:
    if isinstance(models, Mapping):
        raise ConfigError('models: runs have names of their own on the page; give a list of their folders')
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f'{name}: {_OF_RUNS[name]}; leave {name} out')
    paths = [os.fspath(one) for one in models if not isinstance(one, nn.Module)]
    return report_runs(ReportOptions(paths, folder, with_bench=with_bench))


def _refuse_runs(listed: list[Candidate]) -> None:
    runs = [one.name for one in listed if isinstance(one, ComparedModel)]
    if runs:
        raise ConfigError(
            f'models: {", ".join(runs)} come from runs, the others from a script, and a page compares either. Give '
            'run folders alone, or modules with their weights loaded (composer_kd.teachers.load_weights)'
        )


def _recorded(found: ModelEvidence, history: str | os.PathLike[str] | None) -> ModelEvidence:
    # Only students of the same model are compared with and without a teacher.
    model = {'name': class_of(found.candidate.make()).__name__, 'parameters': found.parameters}
    folder = None if history is None else pathlib.Path(history)
    return dataclasses.replace(found, settings={'model': model}, curves=curves_in(folder))
