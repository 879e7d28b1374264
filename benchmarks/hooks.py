"""What it costs to look at a layer: a step that taps one layer of each model against one that taps nine.

Student and teacher are stacks of linear layers, the loss is the same and looks at the first layer only, so the steps
differ by sixteen hooks. Writes ``hooks.md`` and ``hooks.json``; the target is 10 microseconds a layer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Sequence

import torch
from composer import Trainer
from composer.core import Callback, State
from composer.loggers import Logger
from composer.models import ComposerClassifier
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.report import markdown_table, print_table
from benchmarks.timing import Mark, Spread, environment, interleave
from benchmarks.workloads import Batches
from composer_kd import Distillation, Match

__all__ = ['main', 'measure']

LAYERS = 9
TARGET = 10.0  # microseconds
LEAD = 5


def first_of(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """A loss that is given several layers and looks at the first."""
    return (student[0] - teacher[0]).square().mean()


def stack(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Linear(32, 32) for _ in range(LAYERS)), nn.Linear(32, 10))


class _Clock(Callback):
    def __init__(self) -> None:
        self.marks: list[Mark] = []

    def fit_start(self, state: State, logger: Logger) -> None:
        self.marks = [(time.perf_counter(), time.process_time())]

    def batch_end(self, state: State, logger: Logger) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))


class TappedRun:
    """Steps of a Trainer whose match looks at the first layers of both models."""

    def __init__(self, layers: int) -> None:
        self.losses: list[float] = []
        self._clock = _Clock()
        names = [str(number) for number in range(layers)]
        student = ComposerClassifier(stack(1), num_classes=10)
        generator = torch.Generator().manual_seed(0)
        batch = torch.randn(32, 32, generator=generator), torch.randint(10, (32,), generator=generator)
        self._trainer = Trainer(
            model=student,
            train_dataloader=Batches([batch], 32),
            optimizers=torch.optim.SGD(student.parameters(), lr=1e-3),
            algorithms=[Distillation(stack(2), [Match(first_of, on=(names, names), name='first')])],
            callbacks=[self._clock],
            device='cpu',
            seed=1,
            progress_bar=False,
            spin_dataloaders=False,
        )

    def steps(self, count: int) -> list[Mark]:
        self._trainer.fit(duration=f'{LEAD + count}ba')
        return self._clock.marks[LEAD:]

    def close(self) -> None:
        self._trainer.close()


def measure(rounds: int, steps: int) -> Spread:
    """Microseconds for one layer of one model in a step: median and quartiles over the rounds."""
    runs = {'one': TappedRun(1), 'all': TappedRun(LAYERS)}
    bar = iter(track(range(rounds), 'rounds'))
    found = interleave(runs, rounds, steps, seed=0, progress=lambda: next(bar, None) and None)
    for run in runs.values():
        run.close()
    hooks = 2 * (LAYERS - 1)
    return Spread.of([1e6 * (all_[0] - one[0]) / hooks for one, all_ in zip(found['one'], found['all'])])


def main(arguments: list[str] | None = None) -> Spread:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=31, metavar='N', help='(default: 31)')
    parser.add_argument('--steps', type=int, default=40, metavar='N', help='steps in a turn (default: 40)')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).parent / 'results', metavar='DIR')
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = measure(options.rounds, options.steps)
    shown = f'{found.median:.1f} [{found.low:.1f}, {found.high:.1f}]'
    met = 'met' if found.median <= TARGET else 'not met'
    table = (
        ['', 'wanted', 'found', ''],
        [['microseconds a tapped layer adds to a step', f'<= {TARGET:.0f}', shown, met]],
    )
    facts = environment()
    command = f'python benchmarks/hooks.py --rounds {options.rounds} --steps {options.steps}'
    method = (
        f'A step that taps {LAYERS} layers of each model less a step that taps one, over {2 * (LAYERS - 1)}; one '
        f'thread, interleaved rounds, of a turn the median step, median and quartiles over {options.rounds} rounds.'
    )
    text = ['# What it costs to look at a layer', f'`{command}`', ', '.join(f'{k} {v}' for k, v in facts.items())]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / 'hooks.md').write_text('\n\n'.join([*text, method, markdown_table(*table)]) + '\n', encoding='utf-8')
    record = {'command': command, 'environment': facts, 'microseconds': dataclasses.asdict(found), 'target': TARGET}
    (options.out / 'hooks.json').write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    print_table(*table, Console())
    return found


if __name__ == '__main__':
    main()
