"""Logs a report to Weights & Biases, if a user or the YAML of a run requests it."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Sequence

from rich.console import Console

from composer_kd.errors import ConfigError
from composer_kd.reports import Report
from composer_kd.runs.saved import SavedRun

__all__ = ['DEFAULT_PROJECT', 'destination', 'send']

DEFAULT_PROJECT = 'composer-kd'
_NAMES = ('wandb', 'wandblogger')


def destination(runs: Sequence[SavedRun], wished: str | None) -> str | None:
    """Chooses the W&B project that a report is logged to.

    Args:
        runs: The runs of the report.
        wished: The project; ``''`` for the project of the runs; ``None`` to log only if a run has a W&B logger.

    Returns:
        The project; ``None`` if the report is not logged.

    Raises:
        ConfigError: If ``wished`` is given and W&B is not installed.
    """
    named = [project for run in runs if (project := _project(run)) is not None]
    if wished is None and not named:
        return None
    if importlib.util.find_spec('wandb') is None:
        if wished is None:
            return None  # the runs may have been trained on another machine
        raise ConfigError("--wandb: W&B is not installed; pip install 'composer_kd[wandb]'")
    return wished or next((project for project in named if project), DEFAULT_PROJECT)


def _project(run: SavedRun) -> str | None:
    """Returns the W&B project of a run: ``''`` for W&B's default, ``None`` without a W&B logger."""
    loggers = run.written.get('loggers') or {}
    for name, options in loggers.items():
        if str(name).lower().replace('_', '').rpartition('.')[2] in _NAMES:
            project = str((options or {}).get('project') or '')
            return '' if '${' in project else project  # that of the environment of the run is not known here
    return None


def send(report: Report, files: Sequence[pathlib.Path], project: str, console: Console) -> None:
    """Logs a report to W&B; prints errors of W&B instead of raising them, because the report itself is complete.

    Args:
        report: The report.
        files: The files of the report.
        project: The W&B project.
        console: The console to print the outcome on.
    """
    from composer_kd.reports.wandb import log_to_wandb

    try:
        where = log_to_wandb(report, files, project)
    except Exception as error:
        console.print(
            f'W&B: not logged ({type(error).__name__}: {error}). The report itself is complete; WANDB_MODE=offline '
            'logs without a connection.',
            highlight=False,
            markup=False,
        )
    else:
        console.print(f'W&B: {where}', highlight=False, markup=False)
