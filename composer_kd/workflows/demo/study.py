"""The workflow of ``composer-kd demo``: trains the runs one after the other and reports the results."""

from __future__ import annotations

import math
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from composer.core import Time
from rich.console import Console

from composer_kd.bench.size import size_in_bytes
from composer_kd.bench.timing import timer_class
from composer_kd.config.schema import RunConfig
from composer_kd.data import digits
from composer_kd.presentation.console import terminal
from composer_kd.presentation.roles import ALONE, DISTILLED, TEACHER
from composer_kd.runs.build import build_model
from composer_kd.runs.evaluate import count_parameters
from composer_kd.runs.files import make_folder
from composer_kd.runs.train import train
from composer_kd.workflows.demo.configs import student_run, teacher_run
from composer_kd.workflows.demo.progress import Bar, bars
from composer_kd.workflows.demo.report import NUMBERS_FILE, write_report
from composer_kd.workflows.demo.results import Entry, Results, Settings

__all__ = ['demo', 'measure', 'one_thread', 'say_what_next', 'train_all']


def demo(
    out: str | pathlib.Path = 'runs/demo', seeds: Sequence[int] = (0, 1, 2), settings: Settings | None = None
) -> Results:
    """Trains a teacher, the student alone and the distilled student, and writes a table and a plot of the comparison.

    Args:
        out: The folder for ``results.json``, ``results.md`` and ``results.png``, and for the run folders ``teacher``,
            ``alone-<seed>`` and ``distilled-<seed>``, which have the files that ``composer-kd train`` writes.
        seeds: The seeds; each student is trained once with each. A seed determines the initial weights, the choice of
            labels and the order of samples.
        settings: The settings of the demo; by default ``Settings()``.

    Returns:
        The accuracies, costs and gains.

    Raises:
        ConfigError: If a setting is out of range, such as more labels than images, or the folder cannot be created;
            raised before training starts.

    Example:
        >>> import contextlib, io, tempfile
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     results = demo(tempfile.mkdtemp(), [0], Settings(teacher_epochs=1, student_epochs=1))
        >>> len(results.distilled.curves[0])
        1
    """
    settings, out = settings or Settings(), pathlib.Path(out)
    make_folder(out, '--out')
    digits('train', n_labels=settings.n_labels, keep_unlabelled=False)  # checks that there are enough labels
    runs = [
        [teacher_run(out, settings)],
        [student_run(out, settings, seed, distilled=False) for seed in seeds],
        [student_run(out, settings, seed, distilled=True) for seed in seeds],
    ]
    (out / NUMBERS_FILE).unlink(missing_ok=True)  # the runs of an earlier demo are overwritten
    console, start = terminal(), time.perf_counter()
    results = _results(settings)
    console.print(
        f'Handwritten digits, {results.samples[0]:,} for training and {results.samples[1]} for testing. The students '
        f'get {settings.n_labels} labels; the distilled one also asks the teacher about the images without a label.\n',
        highlight=False,
    )
    with one_thread():
        _measure_all(results, runs)
        train_all(list(zip(results.entries, runs)), results.samples[0], console)
    results.seconds = time.perf_counter() - start
    write_report(results, out, console)
    _say_what_next(out, seeds, console)
    return results


def _results(settings: Settings) -> Results:
    samples = (len(digits('train')), len(digits('test')))  # type: ignore[arg-type]
    few = f'{settings.n_labels} labels'
    alone, distilled = Entry(ALONE, few), Entry(DISTILLED, f'{few}, teacher')
    return Results(settings, samples, Entry(TEACHER, f'{samples[0]:,} labels'), alone, distilled)


def train_all(rows: Sequence[tuple[Entry, Sequence[RunConfig]]], samples: int, console: Console) -> None:
    """Trains all runs, with a bar for each entry.

    Args:
        rows: The entries, each with its runs.
        samples: The number of training samples of an epoch.
        console: The console of the bars.
    """
    with bars(console) as progress:
        shown = []
        for entry, runs in rows:
            total = sum(
                Time.from_timestring(run.max_duration).value * math.ceil(samples / run.global_train_batch_size)
                for run in runs
            )
            shown.append(Bar(entry, progress, progress.add_task(entry.name, start=False, total=total, accuracy='')))
        for bar, (_, runs) in zip(shown, rows):
            for run in runs:
                train(run, [bar], quiet=True)


def _measure_all(results: Results, runs: Sequence[Sequence[RunConfig]]) -> None:
    for entry, row in zip((results.teacher, results.alone), runs):
        measure(entry, build_model(row[0].model).module, 'module(image)', {'image': torch.zeros(1, 1, 8, 8)})
    # Both students have one architecture; a second measurement would differ by noise only.
    alone, distilled = results.alone, results.distilled
    distilled.parameters, distilled.size, distilled.latency = alone.parameters, alone.size, alone.latency


def measure(entry: Entry, module: torch.nn.Module, call: str, names: Mapping[str, Any]) -> None:
    """Measures parameters, bytes, and the time for one sample on one CPU thread.

    Args:
        entry: Gets the numbers.
        module: The model.
        call: The expression that is timed, of ``module`` and the names.
        names: The sample.
    """
    module.eval()
    entry.parameters, entry.size = count_parameters(module), size_in_bytes(module)
    with torch.inference_mode(), one_thread():
        timer = timer_class()(call, globals={'module': module, **names})
        entry.latency = float(timer.blocked_autorange(min_run_time=0.3).median)


def _say_what_next(out: pathlib.Path, seeds: Sequence[int], console: Console) -> None:
    students = f'{out}/alone-{seeds[0]} {out}/distilled-{seeds[0]}'
    say_what_next([f'evaluate {out}/*/', f'bench {out}/teacher {students}', f'report {out}/*/'], console)


def say_what_next(commands: Sequence[str], console: Console) -> None:
    """Says by which commands the runs of a demo are compared.

    Args:
        commands: The commands, with their arguments.
        console: The console to print on.
    """
    console.print('The runs are there too, each with its checkpoint. Compare them further:', highlight=False)
    for command in commands:
        console.print(f'  composer-kd {command}', highlight=False, soft_wrap=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits torch to one CPU thread: small models gain nothing from a second one, and lose time on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
