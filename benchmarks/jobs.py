"""Long studies of many short runs: each ends in a file, several run at a time, and a stopped study goes on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from omegaconf import OmegaConf

from composer_kd.config.load import as_mapping, load_config
from composer_kd.errors import LossError
from composer_kd.presentation.files import write_file
from composer_kd.presentation.units import seconds_text
from composer_kd.runs.train import train

__all__ = [
    'ROOT',
    'Job',
    'Result',
    'Runner',
    'Task',
    'best_rate',
    'choose_rates',
    'digest',
    'execute',
    'result_path',
    'step_back',
    'written',
]

ROOT = pathlib.Path(__file__).resolve().parent.parent
JOBS_OF_A_WORKER = 60

Result = dict[str, Any]
C = TypeVar('C', bound=Hashable)


class Task(Protocol):
    """What a runner can run."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def batches(self) -> int:
        """How long it is, to tell what is left."""

    @property
    def path(self) -> pathlib.Path:
        """Where its result lies, whether it is there yet or not."""

    def run(self) -> Result:
        """Does it."""


T = TypeVar('T', bound=Task)


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run: a YAML below ``yamls``, overrides of it, and the folder of its result."""

    name: str
    yaml: str
    overrides: tuple[str, ...]
    batches: int
    work: str

    @property
    def config(self) -> Any:
        """The checked configuration."""
        return _config(self.yaml, self.overrides, self.batches)

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies: named after what the run does, so equal runs share it and others never find it."""
        return pathlib.Path(self.work) / f'{_digest(self.yaml, self.overrides, self.batches, self.work)}.json'

    def run(self) -> Result:
        """Trains."""
        metrics = train(self.config)
        found = {'accuracy': metrics['metrics/eval/MulticlassAccuracy']}
        if not math.isfinite(metrics['metrics/eval/CrossEntropy']):
            found['failed'] = 'diverged: the logits are not finite'
        return found


def _config(yaml: str, overrides: tuple[str, ...], batches: int) -> Any:
    same = [f'max_duration={batches}ba', 'progress_bar=false', 'save_overwrite=true']
    return load_config(ROOT / 'yamls' / yaml, [*overrides, *same])


@functools.cache  # to check a configuration takes longer than to look for its result
def _digest(yaml: str, overrides: tuple[str, ...], batches: int, work: str) -> str:
    described = as_mapping(_config(yaml, overrides, batches))
    told = {key: value for key, value in described.items() if key not in ('variables', 'run_name', 'save_folder')}
    return digest(told, work)


def digest(told: Any, work: str) -> str:
    """Names settings; where the work folder is makes no difference."""
    return hashlib.sha256(json.dumps(told, default=str).replace(work, '').encode()).hexdigest()[:16]


@functools.cache
def _yaml(path: pathlib.Path) -> Any:
    return OmegaConf.load(path)


@functools.cache
def written(yaml: pathlib.Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """What a run of a YAML with these overrides says, without what it leaves open."""
    config = OmegaConf.merge(_yaml(yaml), OmegaConf.from_dotlist(list(overrides)))
    said: Any = OmegaConf.to_container(config, resolve=True)
    return {key: value for key, value in said.items() if key not in ('variables', 'run_name', 'save_folder')}


def result_path(told: Any, work: str) -> pathlib.Path:
    """Where a result lies: named after settings; where the data and the work folder are makes no difference."""
    text = json.dumps(told, default=str).replace(os.environ.get('COMPOSER_KD_DATA') or './data', '')
    return pathlib.Path(work) / f'{digest(text, work)}.json'


def step_back() -> None:
    """Lets a worker leave the machine to others who need it."""
    with contextlib.suppress(OSError):
        os.nice(5)


def execute(job: Task, path: pathlib.Path) -> Result:
    """Runs a job and writes its result; a loss that is no number is a result too, any other error is not written."""
    wall, cpu = time.perf_counter(), time.process_time()
    found: Result = {'name': job.name}
    try:
        with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            found |= job.run()
    except Exception as error:
        found['failed'] = f'{type(error).__name__}: {" ".join(str(error).split())[:400]}'
        if not (isinstance(error, LossError) and 'not finite' in str(error)):  # shown, and tried again by the next call
            return found
        found['failed'] = f'diverged: {error}'
    found.update(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall, batches=job.batches)
    write_file(path, json.dumps(found, indent=1) + '\n')
    return found


class Runner:
    """Runs jobs in worker processes of one thread each, those that have no result yet.

    Composer keeps the data and models of every run until the process ends, so now and then the workers are new ones.

    Args:
        workers: How many processes; 0 for none but this one.
        prepare: What a worker does first, such as reading the data: a function of a module.
        dry: Run nothing, say nothing, and give the results that are there.
    """

    def __init__(self, workers: int, prepare: Callable[[], Any] | None = None, dry: bool = False) -> None:
        self.workers = workers
        self.prepare = prepare
        self.dry = dry

    def __call__(self, jobs: Iterable[T], title: str) -> dict[T, Result]:
        """The results of all jobs, and a line for each that is run."""
        paths = {job: job.path for job in jobs}
        results = {job: json.loads(path.read_text()) for job, path in paths.items() if path.exists()}
        first = {path: job for job, path in reversed(paths.items()) if job not in results}  # equal runs are run once
        todo = [(job, path) for path, job in reversed(first.items())]
        if self.dry:
            return results
        print(f'{title}: {len(todo)} of {len(paths)} to run', flush=True)
        speeds: list[float] = []
        for count, (job, found) in enumerate(self._run(todo), 1):
            results |= {other: found for other, path in paths.items() if path == paths[job]}
            if 'wall' in found:
                speeds.append(found['wall'] / found['batches'])
            right = f'{100 * found["accuracy"]:.1f} % in ' if 'accuracy' in found else ''
            said = found.get('failed') or f'{right}{found["wall"]:.0f} s'
            left = sum(other.batches for other, _ in todo if other not in results)
            seconds = left * sum(speeds) / max(len(speeds), 1) / max(self.workers, 1)
            print(f'[{count}/{len(todo)}] {job.name}: {said}; about {seconds_text(seconds)} left', flush=True)
        return results

    def _run(self, todo: Sequence[tuple[T, pathlib.Path]]) -> Iterator[tuple[T, Result]]:
        if not self.workers:
            yield from ((job, execute(job, path)) for job, path in todo)
            return
        context = multiprocessing.get_context('spawn')
        for start in range(0, len(todo), JOBS_OF_A_WORKER * self.workers):
            part = todo[start : start + JOBS_OF_A_WORKER * self.workers]
            with concurrent.futures.ProcessPoolExecutor(
                self.workers, context, initializer=_start_worker, initargs=(self.prepare,)
            ) as pool:
                futures = {pool.submit(execute, job, path): job for job, path in part}
                try:
                    yield from ((futures[done], done.result()) for done in concurrent.futures.as_completed(futures))
                finally:  # who stops it need not wait for what has not begun
                    pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(prepare: Callable[[], Any] | None) -> None:
    torch.set_num_threads(1)
    if prepare is not None:
        prepare()


def best_rate(results: Mapping[float, Result]) -> float:
    """The learning rate of the highest accuracy, the lowest of those that are as good."""
    return max(results, key=lambda rate: (-1 if 'failed' in results[rate] else results[rate]['accuracy'], -rate))


def choose_rates(cells: Iterable[C], tuned: Mapping[tuple[C, float], Result]) -> dict[C, float]:
    """The best learning rate of each cell, of those that were tried for it."""
    return {
        cell: best_rate({rate: result for (other, rate), result in tuned.items() if other == cell}) for cell in cells
    }
