"""``composer-kd demo``."""

from __future__ import annotations

import argparse
import pathlib

from composer_kd.cli.arguments import positive
from composer_kd.cli.loading import load_composer
from composer_kd.errors import ConfigError

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'distil a small student on real data: table and plot (under 3 minutes)'
ABOUT = """\
Trains a teacher, a student alone and the same student with distillation, on handwritten digits with
few labels. Writes a table and a plot, and run folders for the commands evaluate, bench, report and
export. With --text: the same of a BERT and halves of it, on texts (under 10 minutes; needs the extra
`demo`). With --cache: the same student from the live teacher and from a store of its outputs, and what
the store cost and saved (under a minute).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('--out', type=pathlib.Path, help='folder, default: runs/demo, runs/demo-text, runs/cache-demo')
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument('--text', action='store_true', help='distil a BERT, on texts')
    kind.add_argument('--cache', action='store_true', help="show what a store of the teacher's outputs saves")
    parser.add_argument(
        '--data', help='with --text: the folder that contains glue/SST-2, in the place of bundled texts'
    )
    parser.add_argument('--seeds', type=positive, help='repetitions of each student, default: 3, with --text 2')


def run(options: argparse.Namespace) -> None:
    """Runs the demo."""
    if options.data is not None and not options.text:
        raise ConfigError('--data: is of the demo on texts; give --text too')
    load_composer()
    if options.cache:
        from composer_kd.workflows.cache.demo import cache_demo

        cache_demo(options.out or 'runs/cache-demo')
        return
    if options.text:
        from composer_kd.workflows.demo.text import TextSettings, text_demo

        text_demo(options.out or 'runs/demo-text', range(options.seeds or 2), TextSettings(data=options.data))
        return
    from composer_kd.workflows.demo import demo

    demo(options.out or 'runs/demo', range(options.seeds or 3))
