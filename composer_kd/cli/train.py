"""``composer-kd train``."""

from __future__ import annotations

import argparse

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'train what a YAML file describes'
ABOUT = """\
Everything in the YAML and on the command line is checked before anything starts. An override
key.sub=value replaces one value: null for none, {a: 1} for a mapping, teachers.0.name for an entry
of a list. Checkpoints, the resolved config.yaml and metrics.json go to save_folder, by default
runs/<run_name>.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument('yaml', help='for instance yamls/digits/kd.yaml')
    parser.add_argument(
        'overrides', nargs='*', metavar='key=value', help='for instance max_duration=2ep optimizer.lr=0.01'
    )


def run(options: argparse.Namespace) -> None:
    """Trains."""
    from composer_kd.config.yaml_source import require_file

    require_file(options.yaml)  # before torch is imported: a mistyped name is told at once
    from composer_kd.config.load import load_config
    from composer_kd.runs.train import train

    train(load_config(options.yaml, options.overrides))
