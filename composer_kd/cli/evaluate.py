"""``composer-kd evaluate``."""

from __future__ import annotations

import argparse

from composer_kd.cli.arguments import add_allow_imports
from composer_kd.cli.loading import load_composer

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'measure accuracy, loss, parameters and size of checkpoints'
ABOUT = 'Evaluates checkpoints on the evaluation data of their runs.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('checkpoints', nargs='+', metavar='CHECKPOINT', help='a checkpoint, or a run folder')
    parser.add_argument('--config', metavar='YAML', help='default: the config.yaml beside each checkpoint')
    parser.add_argument(
        '--together', action='store_true', help='evaluate the mean of their probabilities too, on the data of the first'
    )
    add_allow_imports(parser)


def run(options: argparse.Namespace) -> None:
    """Evaluates the checkpoints and prints a table."""
    from composer_kd.config.yaml_file import require_file

    if options.config is not None:
        require_file(options.config)
    load_composer()
    from composer_kd.presentation.console import terminal
    from composer_kd.runs.evaluate import as_table, evaluate_all

    terminal().print(as_table(evaluate_all(options.checkpoints, options.config, options.together)), highlight=False)
