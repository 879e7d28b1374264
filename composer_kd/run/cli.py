"""The command ``composer-kd``. Nothing heavy is imported until a command runs, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from composer_kd.errors import ComposerKDError

__all__ = ['main']

WIDTH_OF_FILES = 160

_ABOUT = """\
Knowledge distillation for MosaicML Composer.

  composer-kd demo                                  a teacher, a student alone, a student distilled: table and plot
  composer-kd train yamls/digits/teacher.yaml       train what a YAML describes
  composer-kd train yamls/digits/kd.yaml algorithms.distillation.kd_loss_fn.temperature=2
  composer-kd evaluate runs/digits-kd               accuracy, loss, parameters, size of checkpoints
  composer-kd layers yamls/digits/kd.yaml           the layers that a match can name, with their shapes
  composer -n 2 -m composer_kd train yamls/digits/kd.yaml        the same in two processes
"""

_LAYERS = """\
Lists the layers of a model as Match(on=...) takes them, with the shape of what they show. Write
PATH:input for what goes into a layer. MODEL is
  the YAML of a run          the student and every teacher, on the first samples of its data
  a model of this package    composer-kd layers resnet20 num_classes=100
  a dotted path              composer-kd layers torchvision.models.resnet18 --input 1,3,64,64
                             composer-kd layers transformers.BertModel num_hidden_layers=2
"""

_TRAIN = """\
Everything in the YAML and on the command line is checked before anything starts. An override
key.sub=value replaces one value: null for none, {a: 1} for a mapping, teachers.0.name for an entry
of a list. Checkpoints, the resolved config.yaml and metrics.json go to save_folder, by default
runs/<run_name>.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: What follows the command's name; by default that of the process.

    Returns:
        The exit status: 0 when all is well, 2 when the input is wrong (said in one message, without a traceback).

    Example:
        >>> main(['train', 'no_such.yaml', '--debug'])
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: no configuration file 'no_such.yaml'...
    """
    options = _parser().parse_args(arguments)
    # `python -m` does this and an installed command does not; dotted paths to your own code must work with both.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        options.run(options)
    except ComposerKDError as error:
        if options.debug:
            raise
        print(f'composer-kd: {error}', file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser('composer-kd', description=_ABOUT, formatter_class=form)
    commands = parser.add_subparsers(title='commands', metavar='{train,evaluate,layers,demo}', required=True)

    train = commands.add_parser(
        'train', help='train what a YAML file describes', description=_TRAIN, formatter_class=form
    )
    train.add_argument('yaml', help='for instance yamls/digits/kd.yaml')
    train.add_argument(
        'overrides', nargs='*', metavar='key=value', help='for instance max_duration=2ep optimizer.lr=0.01'
    )
    train.set_defaults(run=_train)

    evaluate = commands.add_parser('evaluate', help='accuracy, loss, parameters and size of checkpoints')
    evaluate.add_argument('checkpoints', nargs='+', metavar='CHECKPOINT', help="a checkpoint, or a run's folder")
    evaluate.add_argument('--config', metavar='YAML', help='by default the config.yaml beside each checkpoint')
    evaluate.set_defaults(run=_evaluate)

    layers = commands.add_parser(
        'layers', help='the layers of a model and their shapes', description=_LAYERS, formatter_class=form
    )
    layers.add_argument('model', metavar='MODEL', help='a YAML file, a name, or a dotted path')
    layers.add_argument('settings', nargs='*', metavar='key=value', help='overrides of the YAML, options of the model')
    layers.add_argument('--input', type=_shape, metavar='1,3,32,32', help='shape of the input, the batch first')
    layers.set_defaults(run=_layers)

    demo = commands.add_parser('demo', help='distil a small student on real data: table and plot (under 3 minutes)')
    demo.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/demo'), help='default: %(default)s')
    demo.add_argument('--seeds', type=_positive, default=3, help='repetitions of each student, default: %(default)s')
    demo.set_defaults(run=_demo)
    for command in (train, evaluate, layers, demo):
        command.add_argument('--debug', action='store_true', help='show the traceback of wrong input too')
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a whole number of 1 or more, got {text!r}')
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    sizes = [size.strip() for size in text.split(',')]
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"expected whole numbers as '1,3,32,32', got {text!r}")
    return tuple(map(int, sizes))


def _train(options: argparse.Namespace) -> None:
    from composer_kd.run.source import require_file

    require_file(options.yaml)  # before torch is imported: a mistyped name is told at once
    from composer_kd.run.config import load_config
    from composer_kd.run.train import train

    train(load_config(options.yaml, options.overrides))


def _evaluate(options: argparse.Namespace) -> None:
    from composer_kd.run.source import require_file

    if options.config is not None:
        require_file(options.config)
    from rich.console import Console

    from composer_kd.run.evaluate import as_table, evaluate_all

    Console().print(as_table(evaluate_all(options.checkpoints, options.config)), highlight=False)


def _layers(options: argparse.Namespace) -> None:
    if options.model.endswith(('.yaml', '.yml')):
        from composer_kd.run.source import require_file

        require_file(options.model)
    from rich.console import Console

    from composer_kd.run.show_layers import show_layers

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)  # paths in one piece, to search and to copy
    for table in show_layers(options.model, options.settings, options.input):
        console.print(table, highlight=False)


def _demo(options: argparse.Namespace) -> None:
    from composer_kd.run.demo import demo

    demo(options.out, range(options.seeds))
