"""``composer-kd layers``."""

from __future__ import annotations

import argparse

from composer_kd.cli.arguments import shape
from composer_kd.cli.loading import load_composer

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

WIDTH_OF_FILES = 160

HELP = 'list the layers of a model and their shapes'
ABOUT = """\
Lists the layers of a model by the paths that Match(on=...) takes, with the shapes of their outputs.
PATH:input stands for the input of a layer. MODEL is
  the YAML of a run          the student and every teacher, on the first samples of its data
  a model of this package    composer-kd layers resnet20 num_classes=100
  a dotted path              composer-kd layers torchvision.models.resnet18 --input 1,3,64,64
                             composer-kd layers transformers.BertModel num_hidden_layers=2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('model', metavar='MODEL', help='a YAML file, a name, or a dotted path')
    parser.add_argument(
        'overrides', nargs='*', metavar='key=value', help='overrides of the YAML or options of the model'
    )
    parser.add_argument('--input', type=shape, metavar='1,3,32,32', help='shape of the input, the batch first')


def run(options: argparse.Namespace) -> None:
    """Prints a table for each model."""
    is_yaml = options.model.endswith(('.yaml', '.yml'))
    load_composer(options.model if is_yaml else None, options.overrides)
    from composer_kd.presentation.console import terminal
    from composer_kd.workflows.layers import show_layers

    console = terminal()
    if not console.is_terminal:
        console = terminal(width=WIDTH_OF_FILES)  # keeps each path in one line
    for table in show_layers(options.model, options.overrides, options.input):
        console.print(table, highlight=False)
