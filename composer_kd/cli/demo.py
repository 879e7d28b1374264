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
export. With --cache: the same student from the live teacher and from a store of its outputs, and what
the store cost and saved (under a minute).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('--out', type=pathlib.Path, help='folder, default: runs/demo, with --cache runs/cache-demo')
    parser.add_argument('--cache', action='store_true', help="show what a store of the teacher's outputs buys")
    parser.add_argument('--seeds', type=positive, default=3, help='repetitions of each student, default: %(default)s')


def run(options: argparse.Namespace) -> None:
    """Runs the demo."""
    if options.cache:
        from composer_kd.workflows.cache.demo import cache_demo

        cache_demo(options.out or 'runs/cache-demo')
        return
    from composer_kd.workflows.demo import demo

    demo(options.out or 'runs/demo', range(options.seeds))
