"""Runs a sweep on this machine: reads and checks its YAML, searches with Optuna and prints the result."""

from __future__ import annotations

import importlib.util
import os
import pathlib

from composer_kd.errors import ConfigError, stopped_by
from composer_kd.presentation.console import terminal
from composer_kd.presentation.units import value_text
from composer_kd.runs.process import without_remarks
from composer_kd.workflows.sweep.plan import make_plan
from composer_kd.workflows.sweep.sweep_file import read_sweep

__all__ = ['run_offline_sweep']


def run_offline_sweep(
    path: str | pathlib.Path,
    out: pathlib.Path | None = None,
    trials: int | None = None,
    workers: int = 1,
    use_eval_loader: bool = False,
    pruning: bool = True,
) -> None:
    """Runs a sweep with Optuna, or continues an interrupted one.

    Args:
        path: The sweep's YAML.
        out: The folder for all files; by default ``runs/sweep-<name>``.
        trials: The total number of trials; by default the file's ``run_cap``, the size of the grid, or 20.
        workers: The number of trials that run in parallel.
        use_eval_loader: Whether trials are evaluated on the run's own ``eval_loader``, even if it is a test set.
        pruning: Whether bad trials are stopped early.

    Raises:
        ConfigError: If Optuna is not installed, or the file, a value in it or the folder is wrong.
        SystemExit: After Ctrl-C or SIGTERM; the results so far have then been written.
    """
    if importlib.util.find_spec('optuna') is None:
        raise ConfigError("a sweep on this machine needs Optuna: pip install 'composer_kd[sweep]'")
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        raise ConfigError('a sweep starts its own processes: run it without the launcher, with --workers')
    from composer_kd.workflows.sweep.search import Settings, search

    sweep = read_sweep(path)
    with without_remarks():
        plan = make_plan(sweep, use_eval_loader)
    out = out if out is not None else pathlib.Path('runs') / f'sweep-{sweep.name}'
    console = terminal(soft_wrap=True)
    try:
        study = search(plan, Settings(out, trials, workers, pruning))
    except (KeyboardInterrupt, SystemExit) as error:
        if stopped_by(error) is not None:
            console.print(f'stopped; what there is, is in {out}; the same command goes on', highlight=False)
        raise
    best = study.best()
    found = (
        'no trial ran to its end'
        if best is None
        else f'best: trial {best.number}, {sweep.metric} {value_text(sweep.metric, best.value)}'
    )
    console.print(f'{found}; {out / "summary.md"}, {out / "best.yaml"}', highlight=False)
