"""How a study of ``findings.py`` is run: teachers, their answers, learning rates, and then all cells for each seed."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import pathlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch import optim

from benchmarks import findings_data
from benchmarks.findings_claims import CLAIMS, FRESH, RAW, RNN, TUNED, Cell, cells_of
from benchmarks.jobs import Job, Result, Runner, Task, best_rate, choose_rates, digest
from composer_kd.data import CIFAR10_MEAN, CIFAR10_STD, IMAGENET_MEAN, IMAGENET_STD
from composer_kd.models import DeepCNN, ImageRNN, resnet20
from composer_kd.teachers import FrozenTeacher, NormalizationAdapter

__all__ = ['DEEP', 'AnswersJob', 'ClaimStudy', 'Study', 'ladder', 'stop_if_failed', 'tune']

ALONE = 'algorithms={channels_last: {}}'
TUNING_SEED = 1000
VIEWS = 4  # of each image
TUNING_SHARE = 4  # a tuning run of the claims has this part of a run's batches
FIRST = (-1, 0, 1)  # steps of the ladder around the middle that are tried first
EXTENSIONS = 2  # of a range of rates whose best is at its end
DEEP = 'DeepCNN'
TEACHER_BATCHES = {'resnet20': 2100, 'rnn': 8400, 'deep': 4700}
# Steps of the ladder of rates, the middle of the three that are tried first: 3e-3, 3e-2, 1e-2 and 1.
MIDDLES = {'adamw': -5, 'adam': -5, 'rmsprop': -5, 'sgd': -3, 'adagrad': -4, 'adadelta': 0}
OPTIMIZERS = {
    optimizer.__name__.lower(): optimizer
    for optimizer in (optim.AdamW, optim.Adam, optim.SGD, optim.RMSprop, optim.Adagrad, optim.Adadelta)
}

C = TypeVar('C', bound=Hashable)


def ladder(step: int) -> float:
    """The learning rates that are tried: ..., 0.001, 0.003, 0.01, ...; 1 is step 0."""
    return float(f'{(1, 3)[step % 2]}e{step // 2}')


def default_rate(optimizer: str) -> float:
    """What torch takes where nothing is said."""
    return float(inspect.signature(OPTIMIZERS[optimizer]).parameters['lr'].default)


def tune(
    runner: Runner, cells: Mapping[C, int], job: Callable[[C, float], Job], title: str
) -> dict[tuple[C, float], Result]:
    """Tries three rates for each cell, and the next while the best is at an end.

    Args:
        runner: Runs the jobs.
        cells: For each the middle step of the ladder.
        job: The tuning run of a cell at a rate.
        title: Of these runs.

    Returns:
        All results; of a dry runner those that are there.
    """
    steps = {cell: {middle + offset for offset in FIRST} for cell, middle in cells.items()}
    found: dict[tuple[C, float], Result] = {}
    for extension in range(EXTENSIONS + 1):
        jobs = {(cell, ladder(step)): job(cell, ladder(step)) for cell in cells for step in sorted(steps[cell])}
        new = {key: made for key, made in jobs.items() if key not in found}
        results = runner(new.values(), title + ', further rates' * (extension > 0))
        stop_if_failed(results.values())
        found |= {key: results[made] for key, made in new.items() if made in results}
        for cell, tried in steps.items():
            there = {step: found[cell, ladder(step)] for step in tried if (cell, ladder(step)) in found}
            if len(there) == len(tried):
                by_rate = {ladder(step): result for step, result in there.items()}
                best = best_rate(by_rate)
                tried |= {step for end, step in ((min(tried), min(tried) - 1), (max(tried), max(tried) + 1))
                          if ladder(end) == best}  # fmt: skip
    return found


def _public(depth: int, fresh_head: bool = False) -> FrozenTeacher:
    adapter = NormalizationAdapter(CIFAR10_MEAN, CIFAR10_STD, IMAGENET_MEAN, IMAGENET_STD)
    return FrozenTeacher(findings_data.pretrained_resnet(depth, fresh_head), input_adapter=adapter)


# How each is made of the checkpoint that was trained for it, if any.
TEACHERS: dict[str, Callable[[str], FrozenTeacher]] = {
    TUNED: lambda checkpoint: FrozenTeacher(resnet20(), checkpoint),
    RAW: lambda _: _public(20),
    FRESH: lambda _: _public(20, fresh_head=True),
    RNN: lambda checkpoint: FrozenTeacher(ImageRNN(image_size=16, hidden_size=256, bidirectional=True), checkpoint),
    DEEP: lambda checkpoint: FrozenTeacher(DeepCNN(), checkpoint),
    'ResNet-20': lambda _: _public(20),
}
TRAINED = {TUNED: 'resnet20', RNN: 'rnn', DEEP: 'deep'}


@dataclasses.dataclass(frozen=True)
class AnswersJob:
    """A teacher answers for all views of all training images; its result is how often it is right on the test set."""

    teacher: str
    checkpoint: str
    split: str
    size: int
    views: int
    half: bool
    work: str

    @property
    def name(self) -> str:
        """For people."""
        return f'answers of {self.teacher}'

    @property
    def batches(self) -> int:
        """Of 100 images."""
        return {'all': 500, 'train': 450}[self.split] * self.views

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies."""
        return pathlib.Path(self.work) / f'{digest(dataclasses.asdict(self), self.work)}.json'

    @property
    def file(self) -> pathlib.Path:
        """Where the answers lie."""
        return self.path.with_suffix('.answers')

    def run(self) -> Result:
        """Asks the teacher."""
        teacher = TEACHERS[self.teacher](self.checkpoint)
        asked = findings_data.images(self.split, self.size, views=self.views)
        findings_data.remember(teacher, asked, self.file, self.half)
        tested = findings_data.images('test', self.size)
        return {'accuracy': findings_data.accuracy(teacher, tested, self.half)}


def stop_if_failed(results: Iterable[Result], may_diverge: bool = True) -> None:
    """Ends a study whose runs cannot be run: what follows would be drawn from nothing."""
    for result in results:
        if 'failed' in result and not (may_diverge and result['failed'].startswith('diverged')):
            raise SystemExit(f'{result["name"]}: {result["failed"]}')


class Jobs:
    """What a study has run.

    Args:
        runner: Runs what has no result yet.

    Attributes:
        found: The results.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.found: dict[Task, Result] = {}

    def do(self, tasks: Iterable[Any], title: str) -> bool:
        """Runs tasks, ends the study if one cannot be run, and says whether all have results."""
        tasks = list(tasks)
        found = self.runner(tasks, title)
        stop_if_failed(found.values())
        self.found |= found
        return all(task in found for task in tasks)


class Study:
    """Some cells, each tuned and then run for every seed.

    Args:
        options: The command line's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work = str(options.work)
        self.trained: dict[str, Result] = {}  # the teachers that were trained here
        self.teachers: dict[str, Result] = {}
        self.tuned: dict[tuple[Any, float], Result] = {}
        self.rates: dict[Any, float] = {}
        self.runs: dict[tuple[Any, int], Result] = {}

    def run(self, runner: Runner) -> Iterator[int]:
        """Does all that has no result yet, and yields each seed that is done."""
        raise NotImplementedError

    def found(self) -> Study:
        """The same study with all results that are there, of whoever ran them."""
        study = type(self)(self.options)
        for _ in study.run(Runner(0, dry=True)):
            pass
        return study

    def answer(self, runner: Runner, names: Iterable[str], split: str, size: int, views: int, half: bool) -> Any:
        """Trains those of the teachers that need it, and lets all answer; returns the file of each."""
        names = list(names)
        trained = self._train(runner, [TRAINED[name] for name in names if name in TRAINED])
        jobs = {
            name: AnswersJob(name, trained.get(TRAINED.get(name, ''), ''), split, size, views, half, self.work)
            for name in names
            if name not in TRAINED or TRAINED[name] in trained
        }
        found = runner(jobs.values(), 'answers')
        self.teachers = {name: found[job] for name, job in jobs.items() if job in found}
        stop_if_failed(self.teachers.values(), may_diverge=False)
        return {name: str(jobs[name].file) for name in self.teachers}

    def _train(self, runner: Runner, kinds: list[str]) -> dict[str, str]:
        jobs, files = {}, {}
        for kind in kinds:
            count = self.options.teacher_batches or TEACHER_BATCHES[kind]
            job = Job(f'teacher {kind}', 'findings/teacher.yaml', (f'variables.kind={kind}',), count, self.work)
            folder = f'{self.work}/teacher-{kind}-{job.path.stem}'  # other settings, another teacher
            files[kind] = f'{folder}/latest-rank0.pt'
            jobs[kind] = dataclasses.replace(job, overrides=(*job.overrides, f'save_folder={folder}'))
        found = runner(jobs.values(), 'teachers')
        self.trained = {kind: found[job] for kind, job in jobs.items() if job in found}
        stop_if_failed(self.trained.values(), may_diverge=False)
        return {kind: files[kind] for kind in self.trained}


class ClaimStudy(Study):
    """The five claims, at 16x16 pixels."""

    def run(self, runner: Runner) -> Iterator[int]:
        """Does all that has no result yet, and yields each seed that is done."""
        cells = list(dict.fromkeys(cell for claim in CLAIMS for cell in cells_of(claim)))
        teachers = dict.fromkeys(cell.teacher for cell in cells if cell.teacher is not None)
        files = self.answer(runner, teachers, 'train', 16, VIEWS, half=False)
        cells = [cell for cell in cells if cell.teacher is None or cell.teacher in files]
        batches = max(1, self.options.batches // TUNING_SHARE)
        to_tune = {cell: MIDDLES[cell.optimizer] for cell in cells if cell.tuned}

        def tuning(cell: Cell, rate: float) -> Job:
            return self.job(cell, files, rate, TUNING_SEED, batches, 'eval_loader.dataset.split=held_out')

        self.tuned = tune(runner, to_tune, tuning, 'tuning')
        done = [cell for cell in to_tune if any(other == cell for other, _ in self.tuned)]
        self.rates = choose_rates(done, self.tuned)
        self.rates |= {cell: default_rate(cell.optimizer) for cell in cells if not cell.tuned}
        for seed in self.options.seeds:
            jobs = {cell: self.job(cell, files, rate, seed, self.options.batches) for cell, rate in self.rates.items()}
            found = runner(jobs.values(), f'seed {seed}')
            stop_if_failed(found.values())
            self.runs |= {(cell, seed): found[job] for cell, job in jobs.items() if job in found}
            yield seed

    def job(self, cell: Cell, files: dict[str, str], rate: float, seed: int, batches: int, *more: str) -> Job:
        """The run of a cell."""
        taught = [
            *(f'variables.answers={files[cell.teacher]}', f'variables.loss={cell.loss}'),
            *(f'variables.temperature={cell.temperature}', f'variables.weight={cell.weight}'),
            f'variables.task={round(1 - cell.weight, 6)}',
        ] if cell.teacher is not None else [ALONE]  # fmt: skip
        overrides = [
            *(f'variables.student={cell.student}', f'variables.optimizer={cell.optimizer}', f'variables.lr={rate}'),
            *(f'seed={seed}', 'save_folder=null', f'train_loader.dataset.views={VIEWS}', *taught, *more),
        ]
        return Job(f'{cell.title}, {rate:g}, seed {seed}', 'findings/claims.yaml', tuple(overrides), batches, self.work)
