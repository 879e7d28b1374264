"""The workflow of ``composer-kd bench``: benchmarks the models of runs and shows the progress."""

from __future__ import annotations

import contextlib
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typing_extensions import override

from composer_kd.bench import (
    BenchResults,
    Limits,
    Row,
    Setting,
    TextOptions,
    Watcher,
    bench,
    block,
    plan,
    summary,
    write,
)
from composer_kd.bench.files import FILES, TEXT_FILE
from composer_kd.bench.predictions import first_samples
from composer_kd.errors import ConfigError
from composer_kd.presentation.console import terminal
from composer_kd.presentation.speech import is_quiet
from composer_kd.presentation.units import seconds_text
from composer_kd.runs.compared import compared_models, data_in_words, evaluation_run
from composer_kd.runs.files import make_folder
from composer_kd.runs.saved import SavedRun, open_runs

__all__ = ['BenchOptions', 'bench_runs']

WIDTH_OF_FILES = 180


@dataclass(frozen=True)
class BenchOptions:
    """The options of a benchmark. For ``None``, ``composer_kd.bench.plan`` chooses what suits this machine.

    Args:
        devices: The names of the devices, as in ``composer_kd.bench.plan``.
        backends: The names of the backends, or ``'all'``.
        precisions: The names of the precisions, or ``'all'``.
        threads: The numbers of CPU threads.
        limits: The seconds of timing for a model in a setting, and the largest batch.
        samples: The number of samples of the evaluation data that are evaluated; ``None`` for all.
        texts: The lengths, batch sizes and new tokens for models of texts.
    """

    devices: Sequence[str] | None = None
    backends: Sequence[str] | None = None
    precisions: Sequence[str] | None = None
    threads: Sequence[int] | None = None
    limits: Limits | None = None
    samples: int | None = 1000
    texts: TextOptions | None = None


def bench_runs(written: Sequence[str], out: pathlib.Path, options: BenchOptions, command: str = '') -> BenchResults:
    """Benchmarks the models of runs and their teachers; prints a table for each setting.

    Args:
        written: Run folders, checkpoints or YAML files, as in ``open_runs``.
        out: The folder for ``bench.json``, ``bench.csv`` and ``bench.md``, which are rewritten after each setting.
        options: The settings to measure, and the limits.
        command: The command line, which is stored with the results.

    Returns:
        The results of all settings.

    Raises:
        ComposerKDError: If a run cannot be opened or the name of a device, backend or precision is unknown; raised
            before any model is timed.
    """
    settings = plan(options.devices, options.backends, options.precisions, options.threads)
    runs = open_runs(written)
    run = evaluation_run(runs)
    make_folder(out, '--out')
    batches, num_classes = _evaluation_data(run, options.samples)
    console = terminal()
    if not console.is_terminal:
        console = terminal(width=WIDTH_OF_FILES)
    with _warnings_on(console), _Shown(console, out) as watcher:
        results = bench(
            compared_models(runs, num_classes),
            batches,
            settings,
            limits=options.limits,
            data=data_in_words(run),
            command=command,
            watcher=watcher,
            texts=options.texts,
        )
    _conclude(console, results, out)
    return results


@contextlib.contextmanager
def _warnings_on(console: Console) -> Iterator[None]:
    """Prints the text of warnings, without file and line."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        console.print(str(message), highlight=False, markup=False, style='yellow')

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _evaluation_data(run: SavedRun, samples: int | None) -> tuple[list[Any], int | None]:
    """Reads the first ``samples`` samples; also returns the number of classes, if the data set has it."""
    loader = run.loader()
    batches = first_samples(run.batches(loader), samples)
    if not batches:
        raise ConfigError(f'{run.name}: its eval_loader is empty, so there is nothing to time the models with')
    return batches, getattr(loader.dataset, 'num_classes', None)


class _Shown(Watcher):
    """Shows a progress bar; prints and writes the results after each setting."""

    def __init__(self, console: Console, out: pathlib.Path) -> None:
        self.console, self.out = console, out
        columns = TextColumn('{task.description}'), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn()
        self.progress = Progress(
            *columns, console=console, transient=True, disable=is_quiet() or not console.is_terminal
        )
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

    @override
    def start(self, setting: Setting, number: int, of: int) -> None:
        self.setting = f'{setting}: '
        self.progress.update(self.task, completed=number - 1, total=of)

    @override
    def say(self, what: str) -> None:
        self.progress.update(self.task, description=f'{self.setting}{what}')

    @override
    def finish(self, results: BenchResults, rows: Sequence[Row]) -> None:
        self.results = results
        self.console.print(block(rows, self.console.width), highlight=False)
        write(results, self.out)


def _conclude(console: Console, results: BenchResults, out: pathlib.Path) -> None:
    console.print(summary(results), highlight=False)
    if results.warnings:
        console.print('\nIn doubt', style='bold')
        for one in results.warnings:
            console.print(f'  {one}', highlight=False, style='yellow')
    files = [*FILES, *([TEXT_FILE] if any(row.texts for row in results.rows) else [])]
    console.print(f'\n{", ".join(files)} in {out} ({seconds_text(results.seconds)})', highlight=False)
