"""How far a build is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from composer.utils import dist
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typing_extensions import Self

from composer_kd.presentation.console import terminal
from composer_kd.presentation.units import number_text, percent, rate_text, seconds_text

__all__ = ['BuildProgress']


class BuildProgress:
    """Shows how far the build of a store is, on the first process, which stands for all: they have equal shares.

    Args:
        name: The name of the teacher.
        batch_size: Samples of a batch.
        resumes: Whether a part may be stored already.
        every: Seconds between two lines, where there is no terminal.
        console: The console; None for standard output.

    Attributes:
        written: The samples that this process wrote; None if it is not known, as a build was gone on with whose rest
            was a single batch.

    Example:
        >>> with BuildProgress('big', batch_size=4, every=0.0) as shown:
        ...     shown(4, 8), shown(8, 8)
        big: 4 of 8 samples...
        (None, None)
        >>> shown.written
        8
    """

    def __init__(
        self, name: str, batch_size: int, resumes: bool = False, every: float = 10.0, console: Console | None = None
    ) -> None:
        self._name, self._batch_size, self._resumes, self._every = name, batch_size, resumes, every
        self._console = terminal() if console is None else console
        self.written: int | None = 0
        self._before: int | None = 0
        self._first: tuple[int, float] | None = None
        self._said = time.perf_counter()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and dist.get_global_rank() == 0:
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
            # The first batch is full unless it is the last one too.
            self._before = done - self._batch_size if done < every else None if self._resumes else 0
        self.written = None if self._before is None else done - self._before
        if dist.get_global_rank():
            return
        first, start = self._first
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
