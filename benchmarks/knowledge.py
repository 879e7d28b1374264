"""What each kind of knowledge gains a student: 18 ways of distilling, three pairs of models, many labels and few.

CIFAR-10; a DeepCNN teaches a ShallowCNN and an ImageRNN, an ImageRNN teaches a ShallowCNN; every method with all 45,000
labels, and with 2,000 where the other images come without one. The runs are those of ``yamls/knowledge``, nothing but
overrides of them.

All rows get the same: so many batches of 64 augmented images, one schedule, and the best of three learning rates. The
rate is chosen for each pair, setting and method by runs of a quarter of the length, with a seed that is not reported,
on 5,000 training images that nothing is trained on. With few labels, half of what a taught student sees has one: taken
as they come, it would meet each label but once, and the methods that need labels besides the teacher would learn
nothing. The student alone sees the 2,000 only, for as many batches. Reported is the test accuracy after the last batch;
where a loss turned to NaN, that.

The size is what two cores can do in under an hour: at 16x16 pixels a batch of 64 costs the DeepCNN 15 ms to answer on
one thread (four times that at 32x32) and the ShallowCNN 4 ms to learn; the RNN learns in 4 ms, and the wide one answers
in 7. 64 samples are enough for losses that relate samples to one another (the weights of SP, RKD and PKT were published
for 64), and leave more steps than larger batches would.

Every run that ends leaves a file in the work folder: a table that was stopped goes on where it was. Results are known
by their settings, not by the code that made them: after a change of the code begin a new folder.

    python benchmarks/knowledge.py --data ROOT --work DIR
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import knowledge_data, knowledge_report
from benchmarks.jobs import ROOT, Job, Runner, choose_rates
from composer_kd.config.load import load_config

METHODS, TEACHER = 'knowledge/methods.yaml', 'knowledge/teacher.yaml'
ALONE = 'alone'
RATES = (1e-3, 3e-3, 1e-2)
TUNING_SEED = 1000
TUNING_SHARE = 4  # a tuning run has this part of a run's batches
SETTINGS = {
    'all labels': [],
    '2,000 labels': ['train_loader.dataset.n_labels=2000', 'train_loader.dataset.labelled_share=0.5'],
}
DROPPED = 'train_loader.dataset.keep_unlabelled=false'
TEACHERS = {'cnn': 4200, 'rnn': 8400}  # batches; about five minutes each


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of the table."""

    pair: str
    setting: str
    method: str

    def job(self, work: str, teachers: dict[str, str], batches: int, seed: int, rate: float, tuning: bool) -> Job:
        """The run for a seed and a learning rate; to tune, it is shorter, and judged on the held-out images."""
        batches = max(1, batches // TUNING_SHARE) if tuning else batches
        alone = self.method == ALONE
        overrides = [
            *(f'variables.pair={self.pair}', f'seed={seed}', f'optimizer.lr={rate}', 'save_folder=null'),
            *SETTINGS[self.setting],
            *(['algorithms={}', DROPPED] if alone else [f'variables.method={self.method}']),
            *([f'variables.teachers={teachers[self.pair]}'] if not alone else []),
            *(['eval_loader.dataset.split=held_out'] if tuning else []),
        ]
        few = 'few' if SETTINGS[self.setting] else 'all'
        name = f'{"tune" if tuning else "run"}-{self.pair}-{few}-{self.method}-{seed}-{rate:g}'
        return Job(name, METHODS, tuple(overrides), batches, work)


def train_teachers(runner: Runner, work: pathlib.Path, pairs: dict[str, Any], batches: dict[str, int]) -> Any:
    """Trains the teachers that the pairs need; returns for each pair its teacher's folder, and their results."""
    jobs, folders = {}, {}
    for kind in sorted({pair['teacher'] for pair in pairs.values()}):
        job = Job(f'teacher-{kind}', TEACHER, (f'variables.kind={kind}',), batches[kind], str(work))
        folders[kind] = f'{work}/teacher-{kind}-{job.path.stem}'  # other settings, another teacher
        jobs[kind] = dataclasses.replace(job, overrides=(*job.overrides, f'save_folder={folders[kind]}'))
    found = runner(jobs.values(), 'teachers')
    for kind, job in jobs.items():
        if 'failed' in found[job]:
            raise SystemExit(f'the teacher {kind}: {found[job]["failed"]}')
    return {name: folders[pair['teacher']] for name, pair in pairs.items()}, {k: found[job] for k, job in jobs.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the teachers, tunes, runs, and writes ``knowledge.md`` and ``knowledge.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=pathlib.Path, help='the folder that holds CIFAR-10 (default: COMPOSER_KD_DATA)')
    parser.add_argument('--work', type=pathlib.Path, default=pathlib.Path('runs/knowledge'), help='for files of runs')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--workers', type=int, default=2, help='processes of one thread each; 0: none but this one')
    parser.add_argument('--pairs', nargs='+', help='default: all three')
    parser.add_argument('--methods', nargs='+', help=f'names in methods.yaml, or {ALONE} (default: all)')
    parser.add_argument('--batches', type=int, default=600, help='of 64 images for each run')
    parser.add_argument('--teacher-batches', type=int, help=f'for each teacher (default: {TEACHERS})')
    parser.add_argument('--out', type=pathlib.Path, default=ROOT / 'benchmarks' / 'results')
    options = parser.parse_args(arguments)
    if options.data is not None:
        os.environ['COMPOSER_KD_DATA'] = str(options.data.absolute())
    torch.set_num_threads(1)
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)

    written = load_config(ROOT / 'yamls' / METHODS).variables
    pairs = {name: written['pairs'][name] for name in options.pairs or written['pairs']}
    titles = {ALONE: 'student alone', **{name: method['title'] for name, method in written['methods'].items()}}
    methods = options.methods or list(titles)
    cells = [
        Cell(pair, setting, method)
        for pair in pairs for method in methods for setting in SETTINGS if method not in pairs[pair]['not_defined']
    ]  # fmt: skip

    runner = Runner(options.workers, knowledge_data.read_all)
    lengths = {kind: options.teacher_batches or count for kind, count in TEACHERS.items()}
    folders, teachers = train_teachers(runner, work, pairs, lengths)
    made = {
        (cell, rate): cell.job(str(work), folders, options.batches, TUNING_SEED, rate, tuning=True)
        for cell in cells for rate in RATES
    }  # fmt: skip
    found = runner(made.values(), 'tuning')
    tuned = {key: found[job] for key, job in made.items()}
    rates = choose_rates(cells, tuned)
    runs: dict[tuple[Cell, int], dict[str, Any]] = {}
    for seed in options.seeds:  # a table after each: of a study that is stopped, the seeds that were done
        jobs = {cell: cell.job(str(work), folders, options.batches, seed, rates[cell], tuning=False) for cell in cells}
        found = runner(jobs.values(), f'seed {seed}')
        runs |= {(cell, seed): found[job] for cell, job in jobs.items()}
        knowledge_report.write(options, pairs, {name: titles[name] for name in methods}, teachers, rates, runs, tuned)


if __name__ == '__main__':
    main()
