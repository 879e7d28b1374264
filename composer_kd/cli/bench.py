"""``composer-kd bench``."""

from __future__ import annotations

import argparse
import pathlib
import shlex
import sys

from composer_kd.cli.arguments import add_allow_imports, positive
from composer_kd.cli.loading import load_composer

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'measure latency, throughput, memory and accuracy of models on this machine'
ABOUT = """\
Measures the models of runs, and the teachers of these runs, in every setting that this machine
supports: devices, CPU threads, backends and precisions. Each setting is also evaluated on the
evaluation data, to show a loss of accuracy beside a gain in speed. RUN is
  a run folder               composer-kd bench runs/digits-teacher runs/digits-kd
  a YAML                     its run if it was trained, otherwise its model with random weights, whose
                             accuracy is not measured
bench.json, bench.csv and bench.md are updated after each setting, so Ctrl-C keeps the results so far.
Models of texts are also timed at several lengths, without padding, and models that write (causal
language models, encoder-decoders) are timed as they do: the first token, and those after it.
torch.compile takes about a minute per model on a CPU and is off by default there: use --backends all
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('runs', nargs='+', metavar='RUN', help='a run folder, a checkpoint, or a YAML')
    parser.add_argument(
        '--out', type=pathlib.Path, default=pathlib.Path('runs/bench'), help='folder, default: %(default)s'
    )
    parser.add_argument(
        '--devices', type=_names, metavar='cpu,cuda', help='cpu, cuda, mps, xla; default: those present'
    )
    parser.add_argument(
        '--backends',
        type=_names,
        metavar='eager,export',
        help='eager, compile, torchscript, export, onnxruntime, int8-dynamic, or all; default: all, no compile on CPUs',
    )
    parser.add_argument(
        '--precisions',
        type=_names,
        metavar='fp32,bf16',
        help='fp32, bf16, fp16, int8, or all; default: those that are fast on the device, and int8',
    )
    parser.add_argument(
        '--threads', type=_counts, metavar='1,4', help='numbers of CPU threads; default: 1, and the number of cores'
    )
    parser.add_argument(
        '--budget', type=_seconds, default=2.0, metavar='SECONDS',
        help='time to measure a model in a setting, default: %(default)s; more reduces noise and allows larger batches',
    )  # fmt: skip
    parser.add_argument(
        '--max-batch', type=positive, default=4096, metavar='N', help='largest batch, default: %(default)s'
    )
    parser.add_argument(
        '--samples', type=positive, default=1000, metavar='N', help='number of evaluation samples, default: %(default)s'
    )
    parser.add_argument(
        '--lengths', type=_counts, metavar='32,128',
        help='models of texts: lengths in tokens, of prompts too; default: 32, 128, 512, as far as they are taken',
    )  # fmt: skip
    parser.add_argument(
        '--batch-sizes', type=_counts, default=[1, 8, 32], metavar='1,8',
        help='models of texts: batch sizes at each length, default: 1,8,32',
    )  # fmt: skip
    parser.add_argument(
        '--new-tokens', type=int, default=32, metavar='N',
        help='models that write: tokens after each prompt, default: %(default)s; 0 times no writing',
    )  # fmt: skip
    add_allow_imports(parser)


def run(options: argparse.Namespace) -> None:
    """Runs the benchmark, prints tables and writes the results."""
    from composer_kd.config.yaml_file import require_file

    for written in options.runs:
        if written.endswith(('.yaml', '.yml')):
            require_file(written)
    load_composer()
    from composer_kd.bench import Limits, TextOptions
    from composer_kd.presentation.paths import below_home
    from composer_kd.workflows.bench import BenchOptions, bench_runs

    how = BenchOptions(
        options.devices,
        options.backends,
        options.precisions,
        options.threads,
        Limits(options.budget, options.max_batch),
        options.samples,
        TextOptions(options.lengths, options.batch_sizes, options.new_tokens),
    )
    # The results may be published, so the home folder, which contains the user name, is replaced.
    words = [below_home(word) for word in sys.argv[1:]]
    quoted = [f'~/{shlex.quote(word[2:])}' if word.startswith('~/') else shlex.quote(word) for word in words]
    command = ' '.join(['composer-kd', *quoted])
    bench_runs(options.runs, options.out, how, command)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(',') if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f'expected names with commas between them, got {text!r}')
    return names


def _counts(text: str) -> list[int]:
    return [positive(one.strip()) for one in text.split(',')]


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'expected seconds above 0, got {text!r}')
    return value
