"""Times the models of runs, and shows how it goes."""

from __future__ import annotations

import contextlib
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from composer_kd.bench import BenchResults, Limits, Row, Setting, Watcher, bench, block, plan, summary, write
from composer_kd.bench.files import FILES
from composer_kd.bench.predictions import first_samples
from composer_kd.errors import ConfigError
from composer_kd.presentation.units import seconds_text
from composer_kd.runs.compared import compared_models, data_in_words, evaluation_run
from composer_kd.runs.files import make_folder
from composer_kd.runs.saved import SavedRun, open_runs

__all__ = ['BenchOptions', 'bench_runs']

WIDTH_OF_FILES = 180


@dataclass(frozen=True)
class BenchOptions:
    """What the command line chooses; None for what this machine has.

    Args:
        devices: As for ``composer_kd.bench.plan``.
        backends: The same.
        precisions: The same.
        threads: The same.
        limits: How far to go in each setting.
        samples: How many samples of the evaluation data; None for all.
    """

    devices: Sequence[str] | None = None
    backends: Sequence[str] | None = None
    precisions: Sequence[str] | None = None
    threads: Sequence[int] | None = None
    limits: Limits | None = None
    samples: int | None = 1000


def bench_runs(written: Sequence[str], out: pathlib.Path, options: BenchOptions, command: str = '') -> BenchResults:
    """Times the models of runs and their teachers; prints a table for each setting.

    Args:
        written: Runs, as ``open_runs`` takes them.
        out: Folder of ``bench.json``, ``bench.csv`` and ``bench.md``, written anew after each setting.
        options: How to run the models.
        command: What started this.

    Returns:
        The results.

    Raises:
        ComposerKDError: If a run or a name is wrong; before anything is timed.
    """
    settings = plan(options.devices, options.backends, options.precisions, options.threads)
    runs = open_runs(written)
    run = evaluation_run(runs)
    make_folder(out, '--out')
    batches, num_classes = _evaluation_data(run, options.samples)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    with _warnings_on(console), _Shown(console, out) as watcher:
        results = bench(
            compared_models(runs, num_classes),
            batches,
            settings,
            limits=options.limits,
            data=data_in_words(run),
            command=command,
            watcher=watcher,
        )
    _conclude(console, results, out)
    return results


@contextlib.contextmanager
def _warnings_on(console: Console) -> Iterator[None]:
    """Prints warnings as sentences."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        console.print(str(message), highlight=False, markup=False, style='yellow')

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _evaluation_data(run: SavedRun, samples: int | None) -> tuple[list[Any], int | None]:
    """The batches, no more than are needed."""
    loader = run.loader()
    batches = first_samples(run.batches(loader), samples)
    if not batches:
        raise ConfigError(f'{run.name}: its eval_loader is empty, so there is nothing to time the models with')
    return batches, getattr(loader.dataset, 'num_classes', None)


class _Shown(Watcher):
    """Prints and writes each setting when it is done, and says what is going on."""

    def __init__(self, console: Console, out: pathlib.Path) -> None:
        self.console, self.out = console, out
        columns = TextColumn('{task.description}'), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn()
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.progress.add_task('', total=None)
        self.setting = ''
        self.results: BenchResults | None = None

    def __enter__(self) -> _Shown:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.progress.stop()
        if kind in (KeyboardInterrupt, SystemExit) and self.results is not None:
            _conclude(self.console, self.results, self.out)

    def start(self, setting: Setting, number: int, of: int) -> None:
        """A setting begins."""
        self.setting = f'{setting}: '
        self.progress.update(self.task, completed=number - 1, total=of)

    def say(self, what: str) -> None:
        """What is being done now."""
        self.progress.update(self.task, description=f'{self.setting}{what}')

    def finish(self, results: BenchResults, rows: Sequence[Row]) -> None:
        """A setting is done."""
        self.results = results
        self.console.print(block(rows, self.console.width), highlight=False)
        write(results, self.out)


def _conclude(console: Console, results: BenchResults, out: pathlib.Path) -> None:
    console.print(summary(results), highlight=False)
    if results.warnings:
        console.print('\nIn doubt', style='bold')
        for one in results.warnings:
            console.print(f'  {one}', highlight=False, style='yellow')
    console.print(f'\n{", ".join(FILES)} in {out} ({seconds_text(results.seconds)})', highlight=False)
