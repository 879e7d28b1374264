"""``composer-kd bench``."""

from __future__ import annotations

import argparse
import pathlib
import shlex
import sys

from composer_kd.cli.arguments import positive

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'latency, throughput, memory and accuracy of models on this machine'
ABOUT = """\
Times the models of runs, and the teachers of those runs, in every way that this machine has:
devices, CPU threads, backends, precisions. Each way answers for the evaluation data too, so that
one that is quick and wrong shows. RUN is
  the folder of a run        composer-kd bench runs/digits-teacher runs/digits-kd
  a YAML                     its run if it has been trained, else its model with random weights: timed,
                             but without an accuracy
bench.json, bench.csv and bench.md are written after each setting; Ctrl-C leaves what there is.
torch.compile takes a minute for each model on a CPU, so there one must ask for it: --backends all
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument('runs', nargs='+', metavar='RUN', help='the folder of a run, a checkpoint, or a YAML')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/bench'), help='default: %(default)s')
    parser.add_argument('--devices', type=_names, metavar='cpu,cuda', help='cpu, cuda, mps, xla; default: those here')
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
        help='fp32, bf16, fp16, int8, or all; default: those that the device is quick in, and int8',
    )
    parser.add_argument(
        '--threads', type=_counts, metavar='1,4', help='of the CPU; default: one, and as many as there are cores'
    )
    parser.add_argument(
        '--budget', type=_seconds, default=2.0, metavar='SECONDS',
        help='of timing for a model in a setting, default: %(default)s; more gives less noise and larger batches',
    )  # fmt: skip
    parser.add_argument('--max-batch', type=positive, default=4096, metavar='N', help='default: %(default)s')
    parser.add_argument(
        '--samples', type=positive, default=1000, metavar='N', help='of the evaluation data, default: %(default)s'
    )


def run(options: argparse.Namespace) -> None:
    """Times, prints and writes."""
    from composer_kd.config.yaml_source import require_file

    for written in options.runs:
        if written.endswith(('.yaml', '.yml')):
            require_file(written)
    try:
        _bench(options)
    except (KeyboardInterrupt, SystemExit):  # Composer turns Ctrl-C into the latter
        print('stopped', file=sys.stderr)
        raise SystemExit(130) from None


def _bench(options: argparse.Namespace) -> None:
    from composer_kd.bench import Limits
    from composer_kd.presentation.paths import below_home
    from composer_kd.workflows.bench import BenchOptions, bench_runs

    how = BenchOptions(
        options.devices,
        options.backends,
        options.precisions,
        options.threads,
        Limits(options.budget, options.max_batch),
        options.samples,
    )
    # The numbers are sent to others, and a user's name is none of theirs.
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
