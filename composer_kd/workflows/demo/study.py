"""The workflow of ``composer-kd demo``: trains the runs one after the other and reports the results."""

from __future__ import annotations

import math
import pathlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
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

__all__ = ['demo']


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
    with _one_thread():
        _measure_all(results, runs)
        _train_all(results, runs, console)
    results.seconds = time.perf_counter() - start
    write_report(results, out, console)
    _say_what_next(out, seeds, console)
    return results


def _results(settings: Settings) -> Results:
    samples = (len(digits('train')), len(digits('test')))  # type: ignore[arg-type]
    few = f'{settings.n_labels} labels'
    alone, distilled = Entry(ALONE, few), Entry(DISTILLED, f'{few}, teacher')
    return Results(settings, samples, Entry(TEACHER, f'{samples[0]:,} labels'), alone, distilled)


def _train_all(results: Results, runs: Sequence[Sequence[RunConfig]], console: Console) -> None:
    batches = math.ceil(results.samples[0] / results.settings.batch_size)
    epochs = (results.settings.teacher_epochs, results.settings.student_epochs, results.settings.student_epochs)
    with bars(console) as progress:
        rows = [
            Bar(entry, progress, progress.add_task(entry.name, start=False, total=total, accuracy=''))
            for entry, total in zip(results.entries, (n * batches * len(row) for n, row in zip(epochs, runs)))
        ]
        for bar, row in zip(rows, runs):
            for run in row:
                train(run, [bar], quiet=True)


def _measure_all(results: Results, runs: Sequence[Sequence[RunConfig]]) -> None:
    for entry, row in zip((results.teacher, results.alone), runs):
        _measure(entry, build_model(row[0].model).module)
    # Both students have one architecture; a second measurement would differ by noise only.
    alone, distilled = results.alone, results.distilled
    distilled.parameters, distilled.size, distilled.latency = alone.parameters, alone.size, alone.latency


def _measure(entry: Entry, module: torch.nn.Module) -> None:
    module.eval()
    entry.parameters, entry.size = count_parameters(module), size_in_bytes(module)
    with torch.inference_mode():
        timer = timer_class()('module(image)', globals={'module': module, 'image': torch.zeros(1, 1, 8, 8)})
        entry.latency = float(timer.blocked_autorange(min_run_time=0.3).median)


def _say_what_next(out: pathlib.Path, seeds: Sequence[int], console: Console) -> None:
    students = f'{out}/alone-{seeds[0]} {out}/distilled-{seeds[0]}'
    console.print('The runs are there too, each with its checkpoint. Compare them further:', highlight=False)
    for command in (
        f'composer-kd evaluate {out}/*/',
        f'composer-kd bench {out}/teacher {students}',
        f'composer-kd report {out}/*/',
    ):
        console.print(f'  {command}', highlight=False, soft_wrap=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limits torch to one CPU thread: small models gain nothing from a second one, and lose time on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
