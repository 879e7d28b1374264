"""The accuracies to beat, with the same students at 32x32 pixels."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks.findings_study import ALONE, DEEP, TUNING_SEED, Study, stop_if_failed, tune
from benchmarks.jobs import Job, Result, Runner, choose_rates, digest
from composer_kd.models import torchvision_model

__all__ = ['BAR_TEACHERS', 'BarCell', 'EpochCost', 'ResNetBar', 'ShallowBar', 'best_of']

BATCH, VIEWS = 128, 4
BAR_TEACHERS = ('ResNet-20', DEEP)
WAYS = {'kl': 'KL, T=4, weight 0.9', 'dist': 'DIST, T=4'}
ADAMW_MIDDLE, SGD_MIDDLE = -5, -2  # of the first three rates: 3e-3 and 0.1


@dataclasses.dataclass(frozen=True)
class BarCell:
    """A student, alone or taught in a way."""

    student: str
    teacher: str | None = None
    how: str = 'kl'

    @property
    def title(self) -> str:
        """For the tables."""
        return f'{self.student} alone' if self.teacher is None else f'taught by {self.teacher}, {WAYS[self.how]}'


@dataclasses.dataclass(frozen=True)
class EpochCost:
    """How many seconds of processor time an epoch of the ResNets takes on one thread of a CPU."""

    work: str
    steps: int = 3

    name = 'cost of the ResNets'

    @property
    def batches(self) -> int:
        """Of all that is timed."""
        return 3 * self.steps

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies."""
        return pathlib.Path(self.work) / f'cost-{digest([BATCH, self.steps, torch.__version__], self.work)}.json'

    def run(self) -> Result:
        """Times some steps on random images."""
        student, teacher = (torchvision_model(name) for name in ('resnet18', 'resnet34'))
        x, y = torch.randn(BATCH, 3, 32, 32), torch.zeros(BATCH, dtype=torch.long)

        def learn(model: torch.nn.Module) -> None:
            torch.nn.functional.cross_entropy(model(x), y).backward()

        def answer() -> None:
            with torch.no_grad():
                teacher.eval()(x)

        return {
            'student learns': self._epoch(lambda: learn(student)),
            'teacher learns': self._epoch(lambda: learn(teacher)),
            'teacher answers': self._epoch(answer),
        }

    def _epoch(self, step: Callable[[], None]) -> float:
        step()
        seconds = []
        for _ in range(self.steps):
            start = time.process_time()
            step()
            seconds.append(time.process_time() - start)
        return statistics.median(seconds) * 50_000 / BATCH


class _Bar(Study):
    """A pilot on held-out images chooses rates and losses; what is chosen is run for every seed."""

    student: str
    yaml: str
    epochs: int
    middle: int

    @property
    def names(self) -> list[str]:
        """The teachers; for each one way is chosen."""
        raise NotImplementedError

    def job(self, cell: BarCell, rate: float, seed: int, batches: int, *more: str) -> Job:
        """The run of a cell."""
        taught = self.taught(cell) if cell.teacher is not None else [ALONE]
        overrides = (f'variables.lr={rate}', f'seed={seed}', 'save_folder=null', *taught, *more)
        return Job(f'{cell.title}, {rate:g}, seed {seed}', self.yaml, overrides, batches, self.work)

    def taught(self, cell: BarCell) -> list[str]:
        """What a run that is taught has more."""
        raise NotImplementedError

    def prepare(self, runner: Runner) -> list[str]:
        """Makes the teachers; returns those that can teach."""
        raise NotImplementedError

    def run(self, runner: Runner) -> Iterator[int]:
        """Does all that has no result yet, and yields each seed that is done."""
        there = self.prepare(runner)
        alone = BarCell(self.student)
        taught = [BarCell(self.student, teacher, how) for teacher in there for how in WAYS]
        pilot = max(1, int(self.options.pilot_epochs * 45_000 / BATCH))

        def tuning(cell: BarCell, rate: float) -> Job:
            apart = ('train_loader.dataset.split=train', 'eval_loader.dataset.split=held_out')
            return self.job(cell, rate, TUNING_SEED, pilot, *apart)

        self.tuned = tune(runner, dict.fromkeys([alone, *taught], self.middle), tuning, 'pilot')
        done = [cell for cell in [alone, *taught] if any(other == cell for other, _ in self.tuned)]
        rates = choose_rates(done, self.tuned)
        finalists = [alone] if alone in rates else []
        for teacher in there:
            finalists += best_of([cell for cell in rates if cell.teacher == teacher], rates, self.tuned)
        self.rates = {cell: rates[cell] for cell in finalists}
        batches = max(1, int((self.options.epochs or self.epochs) * 50_000 / BATCH))
        for seed in self.options.bar_seeds:
            jobs = {cell: self.job(cell, rate, seed, batches) for cell, rate in self.rates.items()}
            found = runner(jobs.values(), f'seed {seed}')
            stop_if_failed(found.values())
            self.runs |= {(cell, seed): found[job] for cell, job in jobs.items() if job in found}
            yield seed


def best_of(cells: Sequence[BarCell], rates: dict, tuned: dict) -> list[BarCell]:
    """The cell of the highest held-out accuracy at its own rate; none of none."""
    return sorted(cells, key=lambda cell: -tuned[cell, rates[cell]].get('accuracy', -1))[:1]


class ShallowBar(_Bar):
    """A ShallowCNN, taught by a DeepCNN and by a pretrained ResNet."""

    student, yaml, epochs, middle = 'ShallowCNN', 'findings/bar.yaml', 8, ADAMW_MIDDLE
    files: dict[str, str]

    @property
    def names(self) -> list[str]:
        """The teachers; for each one way is chosen."""
        return list(self.options.bar_teachers)

    def prepare(self, runner: Runner) -> list[str]:
        """Makes the teachers; returns those that can teach."""
        self.files = self.answer(runner, self.names, 'all', 32, VIEWS, half=True)
        return list(self.files)

    def taught(self, cell: BarCell) -> list[str]:
        """What a run that is taught has more."""
        return [f'variables.answers={self.files[str(cell.teacher)]}', f'variables.how={cell.how}']

    def job(self, cell: BarCell, rate: float, seed: int, batches: int, *more: str) -> Job:
        """The run of a cell, in the views that were asked about."""
        return super().job(cell, rate, seed, batches, f'train_loader.dataset.views={VIEWS}', *more)


class ResNetBar(_Bar):
    """Torchvision's ResNet-18, taught by its ResNet-34, which answers as the student learns."""

    student, yaml, epochs, middle = 'ResNet-18', 'findings/bar_resnet.yaml', 60, SGD_MIDDLE
    checkpoint: str

    @property
    def names(self) -> list[str]:
        """The teachers; for each one way is chosen."""
        return ['ResNet-34']

    def prepare(self, runner: Runner) -> list[str]:
        """Makes the teachers; returns those that can teach."""
        count = self.options.teacher_batches or max(1, int((self.options.epochs or self.epochs) * 50_000 / BATCH))
        overrides = ('variables.architecture=resnet34', ALONE)
        job = Job('teacher ResNet-34', self.yaml, overrides, count, self.work)
        folder = f'{self.work}/teacher-resnet34-{job.path.stem}'
        self.checkpoint = f'{folder}/latest-rank0.pt'
        job = dataclasses.replace(job, overrides=(*job.overrides, f'save_folder={folder}'))
        found = runner([job], 'teacher')
        self.teachers = {'ResNet-34': found[job]} if job in found else {}
        stop_if_failed(self.teachers.values(), may_diverge=False)
        return list(self.teachers)

    def taught(self, cell: BarCell) -> list[str]:
        """What a run that is taught has more."""
        return [f'variables.teacher={self.checkpoint}', f'variables.how={cell.how}']
