"""Progress bars for the demo's runs."""

from __future__ import annotations

from composer import Callback, Logger, State
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from typing_extensions import override

from composer_kd.presentation.speech import is_quiet
from composer_kd.presentation.units import percent
from composer_kd.workflows.demo.results import Entry

__all__ = ['Bar', 'bars']


class Bar(Callback):
    """Advances the progress bar of a model over all its seeds, and records the accuracy after each epoch.

    Args:
        entry: The model's entry; a curve is appended for each run.
        progress: The progress display with the bar.
        task: The bar's identifier in ``progress``.
    """

    def __init__(self, entry: Entry, progress: Progress, task: TaskID) -> None:
        self.entry, self.progress, self.task = entry, progress, task

    @override
    def fit_start(self, state: State, logger: Logger) -> None:
        self.entry.curves.append([])
        self.progress.start_task(self.task)  # the elapsed time counts from the first seed

    @override
    def batch_end(self, state: State, logger: Logger) -> None:
        self.progress.advance(self.task)

    @override
    def eval_end(self, state: State, logger: Logger) -> None:
        accuracy = float(state.eval_metrics['eval']['MulticlassAccuracy'].compute())
        self.entry.curves[-1].append(accuracy)
        self.progress.update(self.task, accuracy=f'accuracy {percent(accuracy)} %')


def bars(console: Console) -> Progress:
    """Makes the display of the progress bars, one for each model.

    Args:
        console: The console on which the bars are shown.

    Returns:
        A context manager that shows the bars; each of its tasks needs the field ``accuracy``.
    """
    left = (TextColumn('{task.description:<18}'), BarColumn(bar_width=24), MofNCompleteColumn())
    return Progress(
        *left, TimeElapsedColumn(), TextColumn('{task.fields[accuracy]}'), console=console, disable=is_quiet()
    )
