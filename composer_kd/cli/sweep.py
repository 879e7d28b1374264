"""``composer-kd sweep``."""

from __future__ import annotations

import argparse
import pathlib

from composer_kd.cli.arguments import positive
from composer_kd.cli.loading import load_composer

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'search for the best settings of a run'
ABOUT = """\
The file has W&B's sweep format: its command contains the YAML of the run, and its parameters are dotted
keys of that YAML. Every value is checked with the YAML before anything starts. Trials are evaluated on
training samples that are held out of all trials, not on the test set. Offline, Optuna does the search;
the same command resumes a sweep that was stopped or killed. Writes best.yaml, trials.csv, trials.json,
summary.md and plots to --out.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('yaml', help='the file of a sweep, such as yamls/sweeps/digits.yaml')
    parser.add_argument(
        '--trials',
        type=positive,
        help="number of trials, including earlier ones; default: the file's run_cap, the size of the grid, or 20",
    )
    parser.add_argument('--workers', type=positive, default=1, help='number of parallel trials, default: %(default)s')
    parser.add_argument('--out', type=pathlib.Path, help='folder of the results, default: runs/sweep-<name>')
    parser.add_argument(
        '--use-eval-loader', action='store_true', help="evaluate on the run's own eval_loader, even if it is a test set"
    )
    parser.add_argument('--no-pruning', action='store_true', help='run every trial to its end')
    parser.add_argument('--wandb', action='store_true', help='run the file as a sweep of Weights & Biases')


def run(options: argparse.Namespace) -> None:
    """Runs the sweep offline, or as a sweep of Weights & Biases."""
    from composer_kd.config.yaml_file import require_file
    from composer_kd.errors import ConfigError

    require_file(options.yaml)  # before torch is imported, to report a mistyped name at once
    load_composer()
    if options.wandb:
        if options.out is not None or options.no_pruning:
            raise ConfigError("--out and --no-pruning are for a sweep on this machine: W&B's server keeps and prunes")
        from composer_kd.workflows.sweep.wandb import run_wandb_sweep

        run_wandb_sweep(options.yaml, options.trials, options.workers, options.use_eval_loader)
        return
    from composer_kd.workflows.sweep.local import run_offline_sweep

    run_offline_sweep(
        options.yaml, options.out, options.trials, options.workers, options.use_eval_loader, not options.no_pruning
    )
