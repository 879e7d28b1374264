"""What models cost to run on this machine: every device, backend and precision that it has.

    python benchmarks/hardware.py                                   # ResNet-56 and the shallow CNN, 3 x 32 x 32 pixels
    python benchmarks/hardware.py DeepCNN ImageRNN --image-size 8 --in-channels 1
    python benchmarks/hardware.py resnet110 resnet20 --backends all --out runs/hardware

The models have random weights and answer for random images, so there is no accuracy here, but there is the output match
of each way of running them. For runs that you trained there is `composer-kd bench`.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence

import torch
from rich.console import Console

from composer_kd import models
from composer_kd.bench import BenchResults, Candidate, Limits, Row, Setting, Watcher, bench, block, plan, summary, write
from composer_kd.errors import ComposerKDError, ConfigError, nearest

SAMPLES = 256


class Printer(Watcher):
    """Prints and writes each setting when it is done."""

    def __init__(self, console: Console, out: pathlib.Path) -> None:
        self.console, self.out = console, out

    def start(self, setting: Setting, number: int, of: int) -> None:
        """Says which one begins."""
        self.console.print(f'{number} of {of}: {setting}', style='dim', highlight=False)

    def finish(self, results: BenchResults, rows: Sequence[Row]) -> None:
        """Prints a table."""
        self.console.print(block(rows, self.console.width), highlight=False)
        write(results, self.out)


def main(arguments: Sequence[str] | None = None) -> BenchResults:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _options(arguments)
    shape = {'in_channels': options.in_channels, 'image_size': options.image_size, 'num_classes': 10}
    torch.manual_seed(0)
    candidates = [
        Candidate(name, functools.partial(_model(name), **shape), role, trained=False)
        for name, role in zip(options.models, ('teacher', *['student alone'] * len(options.models)))
    ]
    images = torch.randn(SAMPLES, options.in_channels, options.image_size, options.image_size)
    settings = plan(options.devices, options.backends, options.precisions, options.threads)
    console = Console()
    results = bench(
        candidates,
        [images],
        settings,
        limits=Limits(options.budget, options.max_batch),
        data=f'random images of {" x ".join(map(str, images.shape[1:]))}',
        command=shlex.join(['python', 'benchmarks/hardware.py', *arguments]),
        watcher=Printer(console, options.out),
    )
    console.print(summary(results), highlight=False)
    for warning in results.warnings:
        console.print(warning, style='yellow', highlight=False)
    return results


def _model(name: str) -> Callable[..., torch.nn.Module]:
    if name not in models.__all__:
        raise ConfigError(f'composer_kd.models has no {name!r}{nearest(name, models.__all__)}')
    return getattr(models, name)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='*', default=['resnet56', 'ShallowCNN'], help='the first one is the teacher')
    parser.add_argument('--in-channels', type=int, default=3)
    parser.add_argument('--image-size', type=int, default=32)
    parser.add_argument('--devices', nargs='+')
    parser.add_argument('--backends', nargs='+')
    parser.add_argument('--precisions', nargs='+')
    parser.add_argument('--threads', nargs='+', type=int)
    parser.add_argument('--budget', type=float, default=2.0)
    parser.add_argument('--max-batch', type=int, default=4096)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/hardware'))
    return parser.parse_args(arguments)


if __name__ == '__main__':
    try:
        main()
    except ComposerKDError as error:
        raise SystemExit(f'hardware.py: {error}') from None
