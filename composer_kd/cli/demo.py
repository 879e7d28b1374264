"""``composer-kd demo``."""

from __future__ import annotations

import argparse
import pathlib

from composer_kd.cli.arguments import positive

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'distil a small student on real data: table and plot (under 3 minutes)'
ABOUT = """\
Trains a teacher, a student alone and the same student with distillation, on handwritten digits with
few labels. Writes a table and a plot, and run folders for the commands evaluate, bench, report and
export.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument(
        '--out', type=pathlib.Path, default=pathlib.Path('runs/demo'), help='folder, default: %(default)s'
    )
    parser.add_argument('--seeds', type=positive, default=3, help='repetitions of each student, default: %(default)s')


def run(options: argparse.Namespace) -> None:
    """Runs the demo."""
    from composer_kd.workflows.demo import demo

    demo(options.out, range(options.seeds))
