"""Who teaches whom: the schemes of distillation on CIFAR-10 at 32x32, with all labels and with 2,000.

A shallow CNN is trained alone, taught by a ResNet-56 (live, and from stores of three formats), by its own past, and
in the other ways of ``yamls/schemes/cifar10.yaml``; every run is that YAML with overrides. All runs of a setting take
as many batches of 128 augmented images. The learning rate is chosen for ``alone``, ``dense``, ``dist`` and ``small``
in each setting, by runs of a third of the length with a seed that is not reported, on 5,000 training images that
these runs do not train on: the best of three rates a factor of three apart, and of the next where the best is at an
end. The other methods take the rate of one of these. Reported is the test accuracy after the last batch.

Every run that ends leaves a file in the work folder: a study that was stopped goes on where it was, and ``--report``
writes what is there. Results are known by their settings, not by the code that made them.

    python benchmarks/schemes.py --data ROOT --work DIR
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import schemes_report
from benchmarks.findings_study import Jobs, tune
from benchmarks.jobs import ROOT, Result, Runner, choose_rates, step_back
from benchmarks.schemes_jobs import STORED, Run, Stored, Trained

TUNING_SEED = 1000
TUNING_SHARE = 3
MIDDLE = -5  # 3e-3, of the ladder of learning rates
IMAGES = 50_000
VIEWS = 10
LIVE_SEEDS = 1  # its runs are the dearest
# The method whose learning rate each takes.
RATE_OF = {
    'alone': 'alone',
    'dense': 'dense',
    'topk': 'dense',
    'sampled': 'dense',
    'dist': 'dist',
    'live': 'dense',
    'deep': 'dense',
    'assistant': 'dense',
    'born_again': 'alone',
    'ema': 'alone',
    'snapshot': 'alone',
    'teacher_free': 'alone',
    'mutual2': 'alone',
    'mutual4': 'alone',
    'small': 'small',
    'self': 'small',
}
SETTINGS = {'few': '2,000 labels', 'all': 'all labels'}


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One number of the tables."""

    setting: str
    method: str

    @property
    def title(self) -> str:
        """For people."""
        return f'{self.method}, {SETTINGS[self.setting]}'


class Study(Jobs):
    """The runs of all cells.

    Args:
        options: Those of the command line.
        runner: Runs what has no result yet.
    """

    def __init__(self, options: argparse.Namespace, runner: Runner) -> None:
        super().__init__(runner)
        self.options = options
        self.work = str(options.work)
        self.batches = round(options.epochs * (IMAGES // 128))
        self.cells = [Cell(setting, method) for setting in options.settings for method in options.methods]
        self.rates: dict[Cell, float] = {}
        self.tuned: dict[tuple[Cell, float], Result] = {}
        self.runs: dict[tuple[Cell, int], Run] = {}

    def run(self) -> None:
        """Does all, and writes the tables after each seed."""
        self._tune()
        for seed in self.options.seeds:
            mine = [cell for cell in self.cells if cell.method != 'live' or seed in self.options.seeds[:LIVE_SEEDS]]
            mine = [cell for cell in mine if RATE_OF[cell.method] in {one.method for one in self.rates}]
            stores = self._stores({cell.method for cell in mine})
            self.do([store for store in stores if store.source is None], 'stores')
            self.do([store for store in stores if store.source is not None], 'stores of other formats')
            jobs = {cell: self._job(cell, seed, self.rates[Cell(cell.setting, RATE_OF[cell.method])]) for cell in mine}
            self.do(jobs.values(), f'seed {seed}')
            self.runs |= {(cell, seed): job for cell, job in jobs.items() if job in self.found}
            self.report()

    def report(self) -> None:
        """Writes ``schemes.md`` and ``schemes.json``."""
        schemes_report.write(self.options, self)

    def _tune(self) -> None:
        chosen = {Cell(cell.setting, RATE_OF[cell.method]) for cell in self.cells}
        if any(cell.method in STORED for cell in chosen):
            self.do([self._store('resnet56', 'rest')], 'stores to choose rates with')
        self.tuned = tune(
            self.runner,
            dict.fromkeys(sorted(chosen, reverse=True), MIDDLE),
            lambda cell, rate: self._job(cell, TUNING_SEED, rate, tuning=True),
            'learning rates',
        )
        done = [cell for cell in chosen if any(other == cell for other, _ in self.tuned)]
        self.rates = choose_rates(done, self.tuned)

    def _store(self, teacher: str, part: str, form: str = 'dense') -> Stored:
        trained = self._teacher() if teacher == 'deep' else None
        source = None if form == 'dense' else self._store(teacher, part)
        views = VIEWS if part == 'all' else VIEWS // 3
        return Stored(teacher, part, views, form, self.work, trained, source)

    def _teacher(self) -> Trained:
        return Trained(self.options.teacher_batches, self.work)

    def _stores(self, methods: set[str]) -> list[Stored]:
        return [self._store(STORED[method].teacher, 'all', STORED[method].form) for method in methods & STORED.keys()]

    def _job(self, cell: Cell, seed: int, rate: float, tuning: bool = False) -> Run:
        part = 'rest' if tuning else 'all'
        kind = STORED.get(cell.method)
        store = None if kind is None else self._store(kind.teacher, part, kind.form)
        return Run(
            method=cell.method,
            setting=cell.setting,
            seed=seed,
            rate=rate,
            part=part,
            batches=self.batches // TUNING_SHARE if tuning else self.batches,
            work=self.work,
            store=store,
        )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=pathlib.Path, help='the folder of CIFAR-10 and of weights/ (COMPOSER_KD_DATA)')
    parser.add_argument('--work', type=pathlib.Path, default=pathlib.Path('runs/schemes'), help='for files of runs')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--methods', nargs='+', choices=RATE_OF, default=list(RATE_OF))
    parser.add_argument('--settings', nargs='+', choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument('--epochs', type=float, default=30, help='of 50,000 images, for each run')
    parser.add_argument('--teacher-batches', type=int, default=4700, help='for the deep CNN')
    parser.add_argument('--workers', type=int, default=2, help='processes of one thread each; 0: none but this one')
    parser.add_argument('--report', action='store_true', help='write what has been run so far, and run nothing')
    parser.add_argument('--out', type=pathlib.Path, default=ROOT / 'benchmarks' / 'results')
    options = parser.parse_args(arguments)
    if options.data is not None:
        os.environ['COMPOSER_KD_DATA'] = str(options.data.absolute())
    options.work = options.work.absolute()
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Builds stores, chooses rates, runs, and writes ``schemes.md`` and ``schemes.json``."""
    options = parse(arguments)
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    Study(options, Runner(options.workers, prepare=step_back, dry=options.report)).run()


if __name__ == '__main__':
    main()
