"""``composer-kd serve``."""

from __future__ import annotations

import argparse

from composer_kd.cli.arguments import add_allow_imports
from composer_kd.cli.loading import load_composer

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'a page on which teacher and students answer side by side'
ABOUT = """\
Serves a web page on this machine: one text, picture or prompt goes to the models of the runs and to
their teachers, and each answers with label and confidences (or a text, as it is written), the time it
took, its parameters and its size. The same as JSON: the page describes its API.
Needs the extra: pip install 'composer_kd[serve]'. Nothing is fetched from the internet, nothing sent.

  composer-kd serve runs/digits-teacher runs/digits-kd
  composer-kd serve runs/text-kd --port 8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('runs', nargs='+', metavar='RUN', help='a run folder; all of one task and the same classes')
    parser.add_argument('--host', default='127.0.0.1', help='default: %(default)s, reached from this machine alone')
    parser.add_argument('--port', type=_port, default=7860, help='default: %(default)s; 0 for a free one')
    add_allow_imports(parser)


def run(options: argparse.Namespace) -> None:
    """Serves the page until it is interrupted."""
    load_composer()
    from composer_kd.workflows.serve.run import serve

    serve(options.runs, options.host, options.port)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f'expected a number from 0 to 65535, got {text!r}')
    return int(text)
