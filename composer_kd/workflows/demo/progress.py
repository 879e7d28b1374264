"""Shows how far the demo's runs are."""

from __future__ import annotations

from composer import Callback, Logger, State
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from composer_kd.presentation.units import percent
from composer_kd.workflows.demo.results import Entry

__all__ = ['Bar', 'bars']


class Bar(Callback):
    """Moves a row's progress bar, which spans all its seeds, and notes in its entry the accuracy after each epoch.

    Args:
        entry: Gets a curve for each run that begins.
        progress: Has the bar.
        task: Which one it is.
    """

    def __init__(self, entry: Entry, progress: Progress, task: TaskID) -> None:
        self.entry, self.progress, self.task = entry, progress, task

    def fit_start(self, state: State, logger: Logger) -> None:
        """The clock of a row runs from its first seed on."""
        self.entry.curves.append([])
        self.progress.start_task(self.task)

    def batch_end(self, state: State, logger: Logger) -> None:
        """One batch more."""
        self.progress.advance(self.task)

    def eval_end(self, state: State, logger: Logger) -> None:
        """Notes the accuracy and shows it."""
        accuracy = float(state.eval_metrics['eval']['MulticlassAccuracy'].compute())
        self.entry.curves[-1].append(accuracy)
        self.progress.update(self.task, accuracy=f'accuracy {percent(accuracy)} %')


def bars(console: Console) -> Progress:
    """Sets out a bar for each row of the table.

    Args:
        console: Where to print.

    Returns:
        Shows them while it is entered as a context; tasks have the field ``accuracy``.
    """
    left = (TextColumn('{task.description:<18}'), BarColumn(bar_width=24), MofNCompleteColumn())
    return Progress(*left, TimeElapsedColumn(), TextColumn('{task.fields[accuracy]}'), console=console)
