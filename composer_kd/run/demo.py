"""The demo: on bundled handwritten digits, what does a small student gain from a teacher when labels are few?

It uses the public pieces only, as your own script would: ``Trainer(algorithms=[Distillation(...)])``.
"""

from __future__ import annotations

import contextlib
import io
import math
import pathlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from composer import Algorithm, Callback, Logger, State, Trainer
from composer.loggers import InMemoryLogger
from composer.optim import CosineAnnealingWithWarmupScheduler, DecoupledSGDW
from composer.utils import reproducibility
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from composer_kd import Distillation
from composer_kd.data import digits
from composer_kd.losses import KLDivergence
from composer_kd.run.build import build_model
from composer_kd.run.evaluate import count_parameters, size_in_bytes
from composer_kd.run.parts import Component
from composer_kd.run.preflight import make_folder
from composer_kd.run.quiet import without_remarks
from composer_kd.run.report import write_report
from composer_kd.run.results import Entry, Results, Settings

__all__ = ['Entry', 'Results', 'Settings', 'demo']

ACCURACY = 'metrics/eval/MulticlassAccuracy'


def demo(
    out: str | pathlib.Path = 'runs/demo', seeds: Sequence[int] = (0, 1, 2), settings: Settings | None = None
) -> Results:
    """Trains a teacher, the student alone and the student distilled; leaves a table and a plot.

    Args:
        out: Folder for ``results.json``, ``results.md`` and ``results.png``.
        seeds: One run of each student for each; a seed determines its initial weights, labels and order of samples.
        settings: How much is trained.

    Returns:
        What was found, whatever it is.

    Raises:
        ConfigError: If a setting makes no sense, such as fewer labels than classes, or the folder cannot be made.

    Example:
        >>> import tempfile
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     results = demo(tempfile.mkdtemp(), [0], Settings(teacher_epochs=1, student_epochs=1))
        >>> len(results.distilled.curves[0])
        1
    """
    settings = settings or Settings()
    make_folder(pathlib.Path(out), '--out')
    start = time.perf_counter()
    console = Console()
    results = _run(seeds, settings, console)
    results.seconds = time.perf_counter() - start
    write_report(results, pathlib.Path(out), console)
    return results


def _run(seeds: Sequence[int], settings: Settings, console: Console) -> Results:
    samples = (len(digits(split='train')), len(digits(split='test')))  # type: ignore[arg-type]
    few = f'{settings.n_labels} labels'
    teacher_entry = Entry('teacher', f'{samples[0]:,} labels')
    alone, distilled = Entry('student alone', few), Entry('student distilled', f'{few}, teacher')
    results = Results(settings, samples, teacher_entry, alone, distilled)
    console.print(
        f'Handwritten digits, {samples[0]:,} for training and {samples[1]} for testing. The students get '
        f'{settings.n_labels} labels; the distilled one also asks the teacher about the images without a label.\n',
        highlight=False,
    )
    with without_remarks(), _one_thread(), _progress(console) as progress:
        batches = math.ceil(samples[0] / settings.batch_size)
        lengths = [settings.teacher_epochs, *[settings.student_epochs * len(seeds)] * 2]
        bars = [
            _Bar(progress, progress.add_task(entry.name, start=False, total=batches * epochs, accuracy=''))
            for entry, epochs in zip(results.entries, lengths)
        ]
        for entry, name in ((teacher_entry, 'DeepCNN'), (alone, 'ShallowCNN')):
            _measure(entry, _model(name, seed=0).module)
        # The same architecture: measured twice, it would differ by noise.
        distilled.parameters, distilled.size, distilled.latency = alone.parameters, alone.size, alone.latency
        teacher = _model('DeepCNN', seed=0)
        _fit(teacher, digits(split='train'), settings.teacher_epochs, 0.05, 0, settings, teacher_entry, bars[0])
        for entry, bar in zip((alone, distilled), bars[1:]):
            for seed in seeds:
                asks = entry is distilled
                data = digits(split='train', n_labels=settings.n_labels, keep_unlabelled=asks, seed=seed)
                loss = KLDivergence(temperature=settings.temperature)
                algorithms = [Distillation(teachers=teacher.module, kd_loss_fn=loss)] if asks else []
                student = _model('ShallowCNN', seed)
                _fit(student, data, settings.student_epochs, 0.01, seed, settings, entry, bar, algorithms)
    return results


def _model(name: str, seed: int) -> Any:
    reproducibility.seed_all(seed)  # the same initial weights for the student alone and distilled
    return build_model(Component('model', name, {'in_channels': 1, 'image_size': 8, 'num_classes': 10}, 'demo'))


def _fit(
    model: Any,
    data: Dataset[Any],
    epochs: int,
    lr: float,
    seed: int,
    settings: Settings,
    entry: Entry,
    bar: Callback,
    algorithms: Sequence[Algorithm] = (),
) -> None:
    """Trains one model and notes in its entry what came out."""
    memory = InMemoryLogger()
    # An epoch is as many images for all: with few labels they are shown more often, so that nobody gets fewer steps.
    images = len(digits(split='train'))  # type: ignore[arg-type]
    shuffled = RandomSampler(data, num_samples=images, generator=torch.Generator().manual_seed(seed))  # type: ignore
    trainer = Trainer(
        model=model,
        train_dataloader=DataLoader(data, batch_size=settings.batch_size, sampler=shuffled),
        eval_dataloader=DataLoader(digits(split='test'), batch_size=500),
        optimizers=DecoupledSGDW(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4),
        schedulers=CosineAnnealingWithWarmupScheduler(t_warmup='0.1dur'),
        max_duration=f'{epochs}ep',
        algorithms=list(algorithms),
        callbacks=bar,
        loggers=memory,
        seed=seed,
        progress_bar=False,
    )
    try:
        trainer.fit()
    finally:
        trainer.close()
    entry.curves.append([float(value) for _, value in memory.data[ACCURACY]])


def _measure(entry: Entry, module: torch.nn.Module) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # its import remarks on CUDA_HOME where there is no GPU
        from torch.utils.benchmark import Timer

    module.eval()
    entry.parameters, entry.size = count_parameters(module), size_in_bytes(module)
    with torch.inference_mode():
        timer = Timer('module(image)', globals={'module': module, 'image': torch.zeros(1, 1, 8, 8)})
        entry.latency = float(timer.blocked_autorange(min_run_time=0.3).median)


class _Bar(Callback):
    """Moves a row's progress bar, which spans all its seeds, and shows the latest accuracy."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def fit_start(self, state: State, logger: Logger) -> None:
        self.progress.start_task(self.task)  # the clock of a row runs from its first seed on

    def batch_end(self, state: State, logger: Logger) -> None:
        self.progress.advance(self.task)

    def eval_end(self, state: State, logger: Logger) -> None:
        accuracy = float(state.eval_metrics['eval']['MulticlassAccuracy'].compute())
        self.progress.update(self.task, accuracy=f'accuracy {100 * accuracy:.1f} %')


def _progress(console: Console) -> Progress:
    left = (TextColumn('{task.description:<18}'), BarColumn(bar_width=24), MofNCompleteColumn())
    return Progress(*left, TimeElapsedColumn(), TextColumn('{task.fields[accuracy]}'), console=console)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread, and where others compute, two wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
