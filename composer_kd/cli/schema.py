"""``composer-kd schema``."""

from __future__ import annotations

import argparse

from composer_kd.cli.loading import load_composer

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'print a JSON schema of YAMLs, for editors'
ABOUT = """\
Prints a JSON schema of the YAMLs of runs: keys, types, defaults, and the names of models, data sets,
losses, algorithms, callbacks, loggers, optimizers and schedulers with their options, as they are
installed here. With it, editors complete YAMLs and mark slips.

  composer-kd schema > composer_kd.json

In VS Code, with the extension YAML of Red Hat, begin a YAML with
  # yaml-language-server: $schema=composer_kd.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser: it has none."""


def run(options: argparse.Namespace) -> None:
    """Prints the schema."""
    import json

    load_composer()
    from composer_kd.config.json_schema import json_schema

    print(json.dumps(json_schema(), indent=1))
