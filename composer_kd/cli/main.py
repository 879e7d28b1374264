# PYTHON_ARGCOMPLETE_OK: shells that complete all commands of Python ask this one too.
"""The command ``composer-kd``. Slow imports are delayed until a command runs, so that ``--help`` is fast."""

from __future__ import annotations

import argparse
import atexit
import importlib
import importlib.metadata
import os
import platform
import signal
import sys
from collections.abc import Sequence

from composer_kd import __version__
from composer_kd.cli.arguments import add_common
from composer_kd.cli.completion import complete
from composer_kd.config.shipped import is_shipped, located
from composer_kd.config.trust import trusting
from composer_kd.errors import ComposerKDError, nearest, stopped_by
from composer_kd.presentation.speech import speaking

__all__ = ['COMMANDS', 'main', 'make_parser']

COMMANDS = (
    *('init', 'train', 'cache', 'evaluate', 'layers', 'bench', 'report', 'profile', 'sweep', 'export', 'serve', 'demo'),
    'schema',
)
"""Modules of ``composer_kd.cli``, in the order of ``--help``."""

_MAY_BE_YAML = ('yaml', 'runs', 'run_', 'checkpoints', 'model', 'config')
"""Arguments of the commands that may be a YAML of the package."""

_SIGNALS = {signal.SIGINT: 'Ctrl-C', signal.SIGTERM: 'SIGTERM'}

_ABOUT = """\
Knowledge distillation for MosaicML Composer.

  composer-kd init                              list YAMLs to start from; `init digits` writes digits.yaml
  composer-kd train digits.yaml --dry-run       check everything, and train nothing
  composer-kd train digits.yaml seed=3          train the run that a YAML describes, with one other setting
  composer-kd train @digits/teacher             the same of a YAML that comes with the package
  composer-kd cache @digits/kd                  run the teachers once: their outputs are stored
  composer-kd evaluate runs/digits-kd           accuracy, loss, parameters, size of checkpoints
  composer-kd layers @digits/kd                 the layers for matches, with their shapes
  composer-kd bench runs/digits                 latency, throughput, memory on this machine
  composer-kd report runs/digits                a page with tables and plots
  composer-kd profile @digits/kd                the time of each phase of a training step
  composer-kd sweep @sweeps/digits              search for the best settings; resumes if stopped
  composer-kd export runs/digits-kd --to onnx   the student, verified, with a model card
  composer-kd serve runs/digits                 a page on which they answer side by side
  composer-kd demo                              a teacher, a student alone, a distilled student: table and plot
  composer-kd schema > composer_kd.json         a JSON schema, with which editors complete YAMLs
  composer -n 2 -m composer_kd train digits.yaml        train in two processes
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments after the name of the command; default: those of the process.

    Returns:
        The exit status: 0 on success, 2 for wrong input, which is reported in one message without a traceback, 130
        after Ctrl-C, and 143 after SIGTERM.

    Example:
        >>> main(['train', 'no_such.yaml', '--debug'])
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: no configuration file 'no_such.yaml'...
    """
    options = _parsed(arguments)
    try:
        _with_shipped(options)
        with trusting(getattr(options, 'allow_imports', ())), speaking(options.quiet, options.verbose):
            options.run(options)
    except ComposerKDError as error:
        if options.debug:
            raise
        print(f'composer-kd: {error}', file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit) as error:
        number = stopped_by(error)
        if options.debug or number is None:
            raise
        print(f'composer-kd: stopped by {_SIGNALS[number]}', file=sys.stderr)
        _leave_others(128 + number)
        return 128 + number  # as shells have it
    return 0


def _leave_others(status: int) -> None:
    """Ends a process of a run of several; everything of the run is closed by now.

    The signal may have interrupted an exchange between the processes, and the destructors that run as the interpreter
    shuts down would wait for the rest of it: each process for the others, until the launcher kills them.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the arguments; ``key=value`` may stand behind options too, which argparse alone does not allow."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser()
    complete(parser)
    if not arguments:
        parser.print_help()
        raise SystemExit(0)
    _require_known(arguments)
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, 'overrides') or any(one.startswith('-') for one in rest)):
        parser.error(f'unrecognized arguments: {" ".join(rest)}')
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _require_known(arguments: Sequence[str]) -> None:
    """Refuses an unknown command with the nearest ones; argparse lists all."""
    name = next((one for one in arguments if not one.startswith('-')), None)
    if name is not None and name not in COMMANDS:
        print(f'composer-kd: unknown command {name!r}{nearest(name, COMMANDS)}', file=sys.stderr)
        raise SystemExit(2)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line with all commands."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser('composer-kd', description=_ABOUT, formatter_class=form)
    parser.add_argument('--version', action='version', version=_version(), help='show versions, and exit')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for name in COMMANDS:
        command = importlib.import_module(f'composer_kd.cli.{name}')
        one = commands.add_parser(name, help=command.HELP, description=command.ABOUT, formatter_class=form)
        command.add_arguments(one)
        add_common(one)
        one.set_defaults(run=command.run)
    return parser


def _version() -> str:
    """The versions that a report of a fault needs, without importing the packages."""
    others = [f'{name} {_installed(name)}' for name in ('mosaicml', 'torch')]
    return f'composer_kd {__version__} ({", ".join(others)}, Python {platform.python_version()})'


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'


def _with_shipped(options: argparse.Namespace) -> None:
    """Puts the files of the package in the place of ``@`` and their names, wherever an argument may be a YAML."""
    for name in _MAY_BE_YAML:
        value = getattr(options, name, None)
        if isinstance(value, (str, list)):
            several = value if isinstance(value, list) else [value]
            found = [str(located(one)) if is_shipped(one) else one for one in several]  # a URI is no path
            setattr(options, name, found if isinstance(value, list) else found[0])
