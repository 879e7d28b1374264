"""``composer-kd report``."""

from __future__ import annotations

import argparse
import pathlib

from composer_kd.cli.arguments import add_allow_imports
from composer_kd.cli.loading import load_composer

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'write a page with tables and plots that compares runs'
ABOUT = """\
Compares students with their teachers: the share of the teacher's accuracy that a student keeps, the
gain of distillation over the student alone, and the reduction in size and time. Writes a
self-contained page (report.html), the same in Markdown with plots, and the numbers in JSON and CSV.

Give the runs of the students, alone and distilled; runs that differ only in their seed become one
row with a standard error. Teachers are found from the settings of their students.

  composer-kd report runs/digits-teacher runs/digits-student runs/digits-kd
  composer-kd report runs/kd-* runs/student-* --bench runs/bench --out runs/report
  WANDB_MODE=offline composer-kd report runs/kd-* --wandb my-project
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('runs', nargs='+', metavar='RUN', help='a run folder, a checkpoint, or the YAML of a run')
    parser.add_argument(
        '--out', type=pathlib.Path, default=pathlib.Path('runs/report'), help='folder, default: %(default)s'
    )
    parser.add_argument('--config', metavar='YAML', help='default: the config.yaml beside each checkpoint')
    add_allow_imports(parser)
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument(
        '--bench',
        metavar='PATH',
        help='results of `composer-kd bench`: a file or its folder. Default: `bench` beside --out if it has these '
        'models, otherwise a short measurement',
    )
    speed.add_argument('--no-bench', action='store_true', help='leave out the speed')
    tracking = parser.add_mutually_exclusive_group()
    tracking.add_argument(
        '--wandb',
        nargs='?',
        const='',
        metavar='PROJECT',
        help='log to Weights & Biases too; default if the YAML of a run has a wandb logger',
    )
    tracking.add_argument('--no-wandb', action='store_true', help='do not log to Weights & Biases')


def run(options: argparse.Namespace) -> None:
    """Writes the report."""
    if options.config is not None:
        from composer_kd.config.yaml_file import require_file

        require_file(options.config)
    load_composer()
    from composer_kd.workflows.report import ReportOptions, report

    report(
        ReportOptions(
            runs=options.runs,
            out=options.out,
            bench=options.bench,
            with_bench=not options.no_bench,
            config=options.config,
            wandb=options.wandb,
            with_wandb=not options.no_wandb,
        )
    )
