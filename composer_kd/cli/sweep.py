"""``composer-kd sweep``."""

from __future__ import annotations

import argparse
import pathlib

from composer_kd.cli.arguments import positive

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'search for the best settings of a run'
ABOUT = """\
The file is in W&B's sweep format; its command names the run, its parameters are dotted keys of that
run. Every value is tried on the run's YAML before anything starts. The trials are judged on a part of
the training samples that none of them trains on, never by the test set. Offline, Optuna searches; a
sweep that was stopped or killed goes on with the same command. Leaves best.yaml, trials.csv,
trials.json, summary.md and plots in --out.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument('yaml', help='for instance yamls/sweeps/digits.yaml')
    parser.add_argument(
        '--trials',
        type=positive,
        help="how many in all, earlier ones included; default: the file's run_cap, the grid, or 20",
    )
    parser.add_argument('--workers', type=positive, default=1, help='trials at a time, default: %(default)s')
    parser.add_argument('--out', type=pathlib.Path, help='default: runs/sweep-<name>')
    parser.add_argument(
        '--use-eval-loader', action='store_true', help="judge by the run's own eval_loader, even if it is a test set"
    )
    parser.add_argument('--no-pruning', action='store_true', help='let every trial run to its end')
    parser.add_argument('--wandb', action='store_true', help='run the same file as a sweep of Weights & Biases')


def run(options: argparse.Namespace) -> None:
    """Searches."""
    from composer_kd.config.yaml_source import require_file
    from composer_kd.errors import ConfigError

    require_file(options.yaml)  # before torch is imported: a mistyped name is told at once
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
