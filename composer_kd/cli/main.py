"""The command ``composer-kd``. Slow imports are delayed until a command runs, so that ``--help`` is fast."""

from __future__ import annotations

import argparse
import atexit
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from composer_kd.config.trust import trusting
from composer_kd.errors import ComposerKDError, stopped_by

__all__ = ['COMMANDS', 'main']

COMMANDS = ('train', 'cache', 'evaluate', 'layers', 'bench', 'report', 'profile', 'sweep', 'export', 'serve', 'demo')
"""Modules of ``composer_kd.cli``, in the order of ``--help``."""

_SIGNALS = {signal.SIGINT: 'Ctrl-C', signal.SIGTERM: 'SIGTERM'}

_ABOUT = """\
Knowledge distillation for MosaicML Composer.

  composer-kd demo                                  a teacher, a student alone, a distilled student: table and plot
  composer-kd train yamls/digits/teacher.yaml       train the run that a YAML describes
  composer-kd train yamls/digits/kd.yaml optimizer.lr=0.02
  composer-kd cache yamls/digits/kd.yaml            run the teachers once: their outputs are stored
  composer-kd evaluate runs/digits-kd               accuracy, loss, parameters, size of checkpoints
  composer-kd layers yamls/digits/kd.yaml           the layers for matches, with their shapes
  composer-kd bench runs/digits-teacher runs/digits-kd      latency, throughput, memory on this machine
  composer-kd report runs/digits-teacher runs/digits-kd     a page with tables and plots
  composer-kd profile yamls/digits/kd.yaml          the time of each phase of a training step
  composer-kd sweep yamls/sweeps/digits.yaml        search for the best settings; resumes if stopped
  composer-kd export runs/digits-kd --to onnx       the student, verified, with a model card
  composer-kd serve runs/digits-teacher runs/digits-kd      a page on which they answer side by side
  composer -n 2 -m composer_kd train yamls/digits/kd.yaml        train in two processes
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
        with trusting(getattr(options, 'allow_imports', ())):
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
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, 'overrides') or any(one.startswith('-') for one in rest)):
        parser.error(f'unrecognized arguments: {" ".join(rest)}')
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser('composer-kd', description=_ABOUT, formatter_class=form)
    commands = parser.add_subparsers(title='commands', metavar=f'{{{",".join(COMMANDS)}}}', required=True)
    for name in COMMANDS:
        command = importlib.import_module(f'composer_kd.cli.{name}')
        one = commands.add_parser(name, help=command.HELP, description=command.ABOUT, formatter_class=form)
        command.add_arguments(one)
        one.add_argument('--debug', action='store_true', help='show the traceback for wrong input too')
        one.set_defaults(run=command.run)
    return parser
