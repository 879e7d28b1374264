"""``composer-kd cache``."""

from __future__ import annotations

import argparse
import dataclasses

from composer_kd.cli.arguments import positive
from composer_kd.cli.loading import load_composer

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'run the teachers of a YAML once, and store what they say of each sample'
ABOUT = """\
Runs the teachers of a run once over its training set, in all views (train_loader.views), and stores
what they say: by default in runs/<run_name>-cache, with several teachers each in a folder of its name
below. The store then takes a teacher's place in the YAML: `teachers: [{cache: FOLDER}]`. Says at the end
what it cost, how many bytes it takes, how far the format is from the live teacher, and what it saves.
Where all teachers are dense stores already, these are written in another format; no teacher runs.

  composer-kd cache yamls/digits/kd.yaml                        logits in half precision
  composer-kd cache yamls/digits/kd.yaml --format topk --k 4    the 4 most probable classes, and the rest
  composer-kd cache yamls/digits/kd.yaml --features features.0:pooled features.6
  composer-kd cache yamls/digits/kd.yaml --format hidden        the input of the last layer, and that layer
  composer-kd cache yamls/digits/kd_cached.yaml --format topk   another format of its store
  composer-kd cache yamls/digits/kd.yaml --resume               go on after an interruption
  composer-kd cache yamls/digits/kd.yaml --mds s3://bucket/digits-kd
  composer -n 2 -m composer_kd cache yamls/digits/kd.yaml       in two processes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('yaml', help='the YAML of a run with teachers, such as yamls/digits/kd.yaml')
    parser.add_argument(
        'overrides', nargs='*', default=[], metavar='key=value', help='overrides, such as train_loader.views=10'
    )
    parser.add_argument('--out', metavar='DIR', help='folder of the store (default: runs/<run_name>-cache)')
    parser.add_argument(
        '--mds', metavar='DIR|URI', help="also as MosaicML Streaming's MDS: a new folder, or s3://, gs://, ..."
    )
    parser.add_argument('--format', default='dense', metavar='FORMAT', help='dense (default), topk, sampled or hidden')
    parser.add_argument('--k', type=positive, metavar='N', help='topk: the number of classes (default: 10)')
    parser.add_argument(
        '--bits', type=float, metavar='BITS', help='topk: bits of a probability: 16 (default), or 4 to 8'
    )
    parser.add_argument('--draws', type=positive, metavar='N', help='sampled: the number of draws (default: 12)')
    parser.add_argument(
        '--dtype', metavar='DTYPE', help='dense, hidden: float16 (default of dense), bfloat16 (of hidden) or float32'
    )
    parser.add_argument('--head', metavar='LAYER', help="hidden: the teacher's last layer (default: it is found)")
    parser.add_argument(
        '--temperature', type=float, metavar='T', help="topk, sampled: default: that of the YAML's loss on logits"
    )
    parser.add_argument(
        '--features', nargs='+', default=(), metavar='LAYER[:pooled]', help='layers to store too, whole or their mean'
    )
    parser.add_argument(
        '--feature-dtype',
        default='float16',
        metavar='DTYPE',
        help='of the layers: float16 (default), bfloat16, float32',
    )
    parser.add_argument('--batch-size', type=positive, metavar='N', help='samples at once (default: 256 or more)')
    parser.add_argument('--resume', action='store_true', help='go on with a build that was ended')


def run(options: argparse.Namespace) -> None:
    """Checks the configuration and the settings, and stores the teachers."""
    load_composer(options.yaml, options.overrides)
    from composer_kd.config.load import load_config
    from composer_kd.workflows.cache import CacheSettings, cache

    names = [field.name for field in dataclasses.fields(CacheSettings)]
    settings = CacheSettings(**{name: getattr(options, name) for name in names})
    cache(load_config(options.yaml, options.overrides), settings, options.out, options.mds)
