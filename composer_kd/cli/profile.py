"""``composer-kd profile``."""

from __future__ import annotations

import argparse
import pathlib

from composer_kd.cli.arguments import positive
from composer_kd.cli.loading import load_composer

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'measure the time of each phase of a training step'
ABOUT = """\
Trains the first steps of a run and measures how the time of a step divides into data, student forward,
teacher forward, distillation loss, task loss, backward, optimizer and the rest. After three steps of
warm-up, --batches steps are measured, and two more are recorded as a Chrome trace (trace.json: open it
at ui.perfetto.dev or chrome://tracing). Also writes a bar chart, a table and all numbers. The run
folder stays unchanged; the callbacks and loggers of the run are left out.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('yaml', help='the YAML of a run, such as yamls/digits/kd.yaml')
    parser.add_argument(
        'overrides',
        nargs='*',
        default=[],
        metavar='key=value',
        help='overrides, such as device_train_microbatch_size=16',
    )
    parser.add_argument('--batches', type=positive, default=10, metavar='N', help='steps to measure (default: 10)')
    parser.add_argument('--out', metavar='DIR', help='folder of the results (default: runs/<run_name>-profile)')


def run(options: argparse.Namespace) -> None:
    """Prints a table and writes the trace, the chart and the numbers."""
    load_composer(options.yaml, options.overrides)
    from composer.utils import dist

    from composer_kd.config.load import load_config
    from composer_kd.presentation.console import terminal
    from composer_kd.workflows.profile.report import table
    from composer_kd.workflows.profile.run import FILES, default_folder, profile

    config = load_config(options.yaml, options.overrides)
    folder = options.out or default_folder(config)
    times = profile(config, options.batches, folder)
    if dist.get_global_rank() == 0:
        console = terminal()
        console.print(table(times), highlight=False)
        written = ', '.join(name for name in FILES if (pathlib.Path(folder) / name).is_file())
        for line in (*times.notes, f'{written} are in {folder}'):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
