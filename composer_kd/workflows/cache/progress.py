"""How far a build is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from composer.utils import dist
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typing_extensions import Self

from composer_kd.presentation.console import terminal
from composer_kd.presentation.speech import is_quiet
from composer_kd.presentation.units import number_text, percent, rate_text, seconds_text

__all__ = ['BuildProgress']


class BuildProgress:
    """Shows how far the build of a store is, on the first process, which stands for all: they have equal shares.

    Args:
        name: The name of the teacher.
        every: Seconds between two lines, where there is no terminal.
        console: The console; None for standard output.

    Attributes:
        written: The samples that this process wrote, without those of an earlier attempt.

    Example:
        >>> with BuildProgress('big', every=0.0) as shown:
        ...     for done in (2, 4, 8):
        ...         shown(done, 8)
        big: 2 of 8 samples...
        big: 4 of 8 samples...
        >>> shown.written
        6
    """

    def __init__(self, name: str, every: float = 10.0, console: Console | None = None) -> None:
        self._name, self._every = name, every
        self._console = terminal() if console is None else console
        self.written = 0
        self._first: tuple[int, float] | None = None
        self._said = time.perf_counter()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not is_quiet() and dist.get_global_rank() == 0:
            rest = (BarColumn(), TaskProgressColumn(), TextColumn('{task.fields[rate]}'), TimeElapsedColumn())
            eta = (TextColumn('left'), TimeRemainingColumn())
            self._bar = Progress(TextColumn('{task.description}', markup=False), *rest, *eta, console=self._console)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if isinstance(error, (KeyboardInterrupt, SystemExit)) and dist.get_global_rank() == 0:
            self._print('stopped; the same command with --resume goes on with what is stored')

    def __call__(self, done: int, every: int) -> None:
        """Shows that ``done`` of ``every`` samples of this process are stored."""
        now = time.perf_counter()
        if self._first is None:
            self._first = done, now
        first, start = self._first
        self.written = done - first
        if dist.get_global_rank():
            return
        rate = (done - first) / (now - start) if done > first else None
        ranks = dist.get_world_size()
        said = rate_text(None if rate is None else rate * ranks)
        if self._bar is not None:
            if not self._bar.tasks:
                self._bar.add_task(self._name, total=every, completed=done, rate=said)
            self._bar.update(self._bar.tasks[0].id, completed=done, rate=said)
        elif now - self._said >= self._every and done < every:
            self._said = now
            left = '' if rate is None else f', {said}, {seconds_text((every - done) / rate)} left'
            share = f'{number_text(done * ranks)} of {number_text(every * ranks)} samples ({percent(done / every)} %)'
            self._print(f'{share}{left}')

    def _print(self, what: str) -> None:
        self._console.print(f'{self._name}: {what}', highlight=False, markup=False, soft_wrap=True)
