"""``composer-kd train``."""

from __future__ import annotations

import argparse

from composer_kd.cli.loading import load_composer

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'train the run that a YAML file describes'
ABOUT = """\
Checks the whole YAML and all overrides, then trains. An override key.sub=value replaces one value:
null for none, {a: 1} for a mapping, teachers.0.name for an entry of a list. Writes checkpoints, the
resolved config.yaml and metrics.json to save_folder, by default runs/<run_name>. A folder that holds
a run is refused: autoresume=true goes on with it, save_overwrite=true replaces it.

A YAML with `stages` describes several runs, of which later ones may be taught by earlier ones; an
override is for all of them, or for one: stages.student.seed=3. Started again, it goes on where it
stopped; save_overwrite=true starts anew.

With --dry-run, everything up to the first batch is built and checked (data, models, teachers, layers,
shapes, checkpoints, folders), and nothing is trained, saved or logged.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('yaml', help='the YAML of a run, such as yamls/digits/kd.yaml')
    parser.add_argument(
        'overrides',
        nargs='*',
        default=[],
        metavar='key=value',
        help='overrides, such as max_duration=2ep optimizer.lr=0.01',
    )
    parser.add_argument('--dry-run', action='store_true', help='check everything, and train and write nothing')


def run(options: argparse.Namespace) -> None:
    """Checks the configuration and trains."""
    load_composer(options.yaml, options.overrides)
    from composer_kd.config.stages import has_stages, load_chain

    if has_stages(options.yaml):
        from composer_kd.workflows.stages import rehearse_stages, train_stages

        chain = load_chain(options.yaml, options.overrides)
        rehearse_stages(chain) if options.dry_run else train_stages(chain)
        return
    from composer_kd.config.load import load_config

    config = load_config(options.yaml, options.overrides)
    if options.dry_run:
        from composer_kd.runs.process import say
        from composer_kd.runs.rehearsal import rehearse_run

        say(rehearse_run(config))
        say('dry run: all of it fits together; nothing was trained or written')
        return
    from composer_kd.runs.train import train

    train(config)
