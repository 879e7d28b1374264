"""Logs a report to Weights & Biases: its tables and plots, and the models and files as artifacts."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from composer_kd.presentation.roles import TEACHER
from composer_kd.presentation.tables import Table
from composer_kd.reports.report import Report

__all__ = ['log_to_wandb']

_LONGEST = 120  # W&B allows 128 characters


def log_to_wandb(report: Report, files: Sequence[pathlib.Path], project: str) -> str:
    """Logs a report as one run of the type ``report``.

    The environment variables of W&B apply, such as ``WANDB_MODE`` and ``WANDB_DIR``. Tables are logged as
    ``wandb.Table``, plots as images, and the numbers of each model also in the summary as ``report/<model>/<number>``.
    The checkpoint of each model becomes an artifact of the type ``model``, with the alias ``teacher`` or ``student``;
    the files of the report become one of the type ``report``.

    Args:
        report: The report.
        files: The files of the report, as :func:`.write_report` returns them.
        project: The project in W&B.

    Returns:
        The URL of the run or, offline, its folder and the command that uploads it.

    Raises:
        Exception: Any error of W&B; a run that was already started is marked as failed.
    """
    import wandb

    config = {'models': [one.name for one in report.evidence.models], 'command': report.evidence.command}
    run = wandb.init(
        project=project, name=report.title, job_type='report', config=config, settings=_settings(wandb.Settings)
    )
    try:
        _log(wandb, run, report, files)
    except BaseException:
        run.finish(exit_code=1)
        raise
    where = run.url or f'offline in {run.dir}; `wandb sync {pathlib.Path(run.dir).parent}` sends it'
    run.finish()
    return str(where)


def _settings(known: Any) -> dict[str, Any]:
    """Disables offline artifacts; with them, W&B 0.18 contacts its server for each table and retries for a week."""
    name = 'allow_offline_artifacts'
    is_known = any(name in getattr(base, '__annotations__', {}) for base in known.__mro__)
    return {name: False} if is_known else {}


def _log(wandb: Any, run: Any, report: Report, files: Sequence[pathlib.Path]) -> None:
    tables = {
        'models': report.models,
        'training_cost': report.costs,
        'settings': report.differences,
        **{re.sub(r'\W+', '_', f'timings {device}').lower(): table for device, table in report.benchmark.items()},
    }
    logged: dict[str, Any] = {
        f'report/{name}': _table(wandb, table) for name, table in tables.items() if table is not None
    }
    pictures = {file.stem: file for file in files if file.suffix == '.png'}
    for name, drawing in report.drawings.items():
        if name in pictures:
            logged[f'report/{name}'] = wandb.Image(str(pictures[name]), caption=drawing.title)
    run.log(logged)
    for row in report.rows():
        numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
        run.summary.update({f'report/{row["model"]}/{key}': value for key, value in numbers.items()})
    run.summary['report/verdict'] = ' '.join(report.verdict)
    _log_models(wandb, run, report)
    artifact = wandb.Artifact(f'report-{run.id}', type='report', description=' '.join(report.verdict))
    for file in files:
        artifact.add_file(str(file), name=file.name)
    run.log_artifact(artifact)


def _log_models(wandb: Any, run: Any, report: Report) -> None:
    for one in report.evidence.models:
        if one.checkpoint is None or not pathlib.Path(one.checkpoint).is_file():
            continue
        details = {'role': one.role, 'parameters': one.parameters, 'seed': one.seed}
        artifact = wandb.Artifact(_artifact_name(one.name), type='model', description=one.role, metadata=details)
        artifact.add_file(one.checkpoint, name=pathlib.Path(one.checkpoint).name)
        settings = pathlib.Path(one.checkpoint).parent / 'config.yaml'
        if settings.is_file():
            artifact.add_file(str(settings), name=settings.name)
        run.log_artifact(artifact, aliases=['latest', 'teacher' if one.role == TEACHER else 'student'])


def _artifact_name(name: str) -> str:
    """Replaces the characters that W&B does not allow: all but letters, digits, dashes, underscores and dots.

    Example:
        >>> _artifact_name('runs/kd: <1>')
        'runs-kd-1'
    """
    return re.sub(r'[^\w.-]+', '-', name, flags=re.ASCII).strip('-')[:_LONGEST] or 'model'


def _table(wandb: Any, table: Table) -> Any:
    rows = [[cell.whole for cell in row] for row in table.filled()]
    return wandb.Table(columns=[column.whole for column in table.columns], data=rows)
