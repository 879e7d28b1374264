"""What each kind of knowledge buys a student: 18 ways of distilling, three pairs of models, many labels and few.

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
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import knowledge_data, knowledge_report
from composer_kd.errors import LossError
from composer_kd.run.config import as_mapping, load_config
from composer_kd.run.train import train

ROOT = pathlib.Path(__file__).resolve().parent.parent
YAMLS = ROOT / 'yamls' / 'knowledge'
ALONE = 'alone'
RATES = (1e-3, 3e-3, 1e-2)
TUNING_SEED = 1000
TUNING_SHARE = 4  # a tuning run has this part of a run's batches
SETTINGS = {
    'all labels': [],
    '2,000 labels': ['train_loader.dataset.n_labels=2000', 'train_loader.dataset.labelled_share=0.5'],
}
DROPPED = 'train_loader.dataset.keep_unlabelled=false'
JOBS_OF_A_WORKER = 60
TEACHERS = {'cnn': 4200, 'rnn': 8400}  # batches; about five minutes each


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run: a YAML, overrides of it, and the file of its result."""

    name: str
    yaml: str
    overrides: tuple[str, ...]
    batches: int
    work: str

    @property
    def config(self) -> Any:
        """The checked configuration."""
        length = f'max_duration={self.batches}ba'
        return load_config(YAMLS / self.yaml, [*self.overrides, length, 'progress_bar=false', 'save_overwrite=true'])

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies: named after what the run does, so equal runs share it and others never find it."""
        described = as_mapping(self.config)
        told = {key: value for key, value in described.items() if key not in ('variables', 'run_name', 'save_folder')}
        digest = hashlib.sha256(json.dumps(told, default=str).replace(self.work, '').encode()).hexdigest()
        return pathlib.Path(self.work) / f'{digest[:16]}.json'


def execute(job: Job, path: pathlib.Path) -> dict[str, Any]:
    """Runs a job and writes its result; a loss that is no number is a result too, any other error is not written."""
    wall, cpu = time.perf_counter(), time.process_time()
    found: dict[str, Any] = {'name': job.name}
    try:
        with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            metrics = train(job.config)
        found['accuracy'] = metrics['metrics/eval/MulticlassAccuracy']
        if not math.isfinite(metrics['metrics/eval/CrossEntropy']):
            found['failed'] = 'diverged: the logits are not finite'
    except Exception as error:
        found['failed'] = f'{type(error).__name__}: {" ".join(str(error).split())[:400]}'
        if not (isinstance(error, LossError) and 'not finite' in str(error)):  # shown, and tried again by the next call
            return found
        found['failed'] = f'diverged: {error}'
    found.update(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall, batches=job.batches)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
    part.replace(path)
    return found


class Runner:
    """Runs jobs in worker processes of one thread each, those that have no result yet.

    Composer keeps the data and models of every run until the process ends, so now and then the workers are new ones.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __call__(self, jobs: Iterable[Job], title: str) -> dict[Job, dict[str, Any]]:
        """The results of all jobs, and a line for each that is run."""
        paths = {job: job.path for job in jobs}
        results = {job: json.loads(path.read_text()) for job, path in paths.items() if path.exists()}
        first = {path: job for job, path in reversed(paths.items()) if job not in results}  # equal runs are run once
        todo = [(job, path) for path, job in reversed(first.items())]
        print(f'{title}: {len(todo)} of {len(paths)} to run', flush=True)
        speeds: list[float] = []
        for count, (job, found) in enumerate(self._run(todo), 1):
            results |= {other: found for other, path in paths.items() if path == paths[job]}
            if 'wall' in found:
                speeds.append(found['wall'] / found['batches'])
            said = found.get('failed') or f'{100 * found["accuracy"]:.1f} % in {found["wall"]:.0f} s'
            left = sum(other.batches for other, _ in todo if other not in results)
            seconds = left * sum(speeds) / max(len(speeds), 1) / max(self.workers, 1)
            print(f'[{count}/{len(todo)}] {job.name}: {said}; about {seconds / 60:.0f} min left', flush=True)
        return results

    def _run(self, todo: Sequence[tuple[Job, pathlib.Path]]) -> Iterator[tuple[Job, dict[str, Any]]]:
        if not self.workers:
            yield from ((job, execute(job, path)) for job, path in todo)
            return
        context = multiprocessing.get_context('spawn')
        for start in range(0, len(todo), JOBS_OF_A_WORKER * self.workers):
            part = todo[start : start + JOBS_OF_A_WORKER * self.workers]
            with concurrent.futures.ProcessPoolExecutor(self.workers, context, initializer=_start_worker) as pool:
                futures = {pool.submit(execute, job, path): job for job, path in part}
                try:
                    yield from ((futures[done], done.result()) for done in concurrent.futures.as_completed(futures))
                finally:  # who stops it need not wait for what has not begun
                    pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    for split in ('train', 'test'):
        knowledge_data.read(split)


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
        return Job(name, 'methods.yaml', tuple(overrides), batches, work)


def train_teachers(runner: Runner, work: pathlib.Path, pairs: dict[str, Any], batches: dict[str, int]) -> Any:
    """Trains the teachers that the pairs need; returns for each pair its teacher's folder, and their results."""
    jobs, folders = {}, {}
    for kind in sorted({pair['teacher'] for pair in pairs.values()}):
        job = Job(f'teacher-{kind}', 'teacher.yaml', (f'variables.kind={kind}',), batches[kind], str(work))
        folders[kind] = f'{work}/teacher-{kind}-{job.path.stem}'  # other settings, another teacher
        jobs[kind] = dataclasses.replace(job, overrides=(*job.overrides, f'save_folder={folders[kind]}'))
    found = runner(jobs.values(), 'teachers')
    for kind, job in jobs.items():
        if 'failed' in found[job]:
            raise SystemExit(f'the teacher {kind}: {found[job]["failed"]}')
    return {name: folders[pair['teacher']] for name, pair in pairs.items()}, {k: found[job] for k, job in jobs.items()}


def choose_rates(cells: Sequence[Cell], tuned: dict[tuple[Cell, float], dict[str, Any]]) -> dict[Cell, float]:
    """The learning rate of the higher accuracy, the lower one of two that are as good."""
    return {
        cell: max(
            RATES, key=lambda rate: (-1 if 'failed' in tuned[cell, rate] else tuned[cell, rate]['accuracy'], -rate)
        )
        for cell in cells
    }


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

    written = load_config(YAMLS / 'methods.yaml').variables
    pairs = {name: written['pairs'][name] for name in options.pairs or written['pairs']}
    titles = {ALONE: 'student alone', **{name: method['title'] for name, method in written['methods'].items()}}
    methods = options.methods or list(titles)
    cells = [
        Cell(pair, setting, method)
        for pair in pairs for method in methods for setting in SETTINGS if method not in pairs[pair]['not_defined']
    ]  # fmt: skip

    runner = Runner(options.workers)
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
