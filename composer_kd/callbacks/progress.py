"""One progress bar for a whole run: how far it is, what it measured last, and how long it will take."""

from __future__ import annotations

from typing import Any

from composer.core import State, TimeUnit
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typing_extensions import override

from composer_kd.presentation.console import terminal
from composer_kd.presentation.units import metric_text

__all__ = ['RunProgress']

_LOSS = 'loss/train/total'
_EVALUATED = 'metrics/eval/'


class RunProgress(LoggerDestination):
    """Draws one bar for a run of any number of epochs, on rank 0; Composer's own bar is one of an epoch.

    The bar counts batches where the run is as long as a number of batches or epochs, and samples otherwise. Beside it
    stand the epoch, the last loss, the first metric of the last evaluation, the time so far, and the time that is left
    at the pace so far, evaluations included.

    Args:
        name: What the run is called.
        console: Where it is drawn; None for standard error.

    Example:
        >>> RunProgress('digits-kd').name
        'digits-kd'
    """

    def __init__(self, name: str, console: Console | None = None) -> None:
        self.name = name
        self._console = console or terminal(stderr=True)
        self._bar: Progress | None = None
        self._loss = self._metric = ''

    @override
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if _LOSS in metrics:
            self._loss = f'loss {metric_text(float(metrics[_LOSS]))}'
        name = next((name for name in metrics if name.startswith(_EVALUATED)), None)
        if name is not None:
            self._metric = f'{name.removeprefix(_EVALUATED)} {metric_text(float(metrics[name]))}'

    @override
    def fit_start(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() != 0:
            return
        columns = (
            *(TextColumn('{task.description}', markup=False), BarColumn(25)),
            *(TextColumn('{task.percentage:>3.0f}% {task.fields[epoch]}'), TimeElapsedColumn()),
            *(TextColumn('left'), TimeRemainingColumn(), TextColumn('{task.fields[found]}', markup=False)),
        )
        done, total = _progress(state)
        self._bar = Progress(*columns, console=self._console, speed_estimate_period=600)
        self._bar.add_task(self.name, total=total, completed=done, epoch='', found='')
        self._bar.start()
        self._draw(state)

    @override
    def batch_end(self, state: State, logger: Logger) -> None:
        self._draw(state)

    @override
    def eval_start(self, state: State, logger: Logger) -> None:
        self._draw(state, 'evaluating')

    @override
    def eval_end(self, state: State, logger: Logger) -> None:
        self._draw(state)

    @override
    def fit_end(self, state: State, logger: Logger) -> None:
        self._draw(state)
        self._stop()

    @override
    def close(self, state: State, logger: Logger) -> None:
        self._stop()  # after an error too

    def _draw(self, state: State, now: str = '') -> None:
        if self._bar is None:
            return
        done, total = _progress(state)
        found = ', '.join(one for one in (now, self._loss, self._metric) if one)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, epoch=_epoch(state), found=found)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _progress(state: State) -> tuple[int, int | None]:
    """How much is done, and the whole, in batches or samples; None for a whole that the data does not tell."""
    duration, length = state.max_duration, state.dataloader_len
    assert duration is not None
    if duration.unit == TimeUnit.EPOCH:
        whole = None if length is None else int(duration.value) * int(length)
        return int(state.timestamp.batch), whole
    return int(state.timestamp.get(duration.unit)), int(duration.value)


def _epoch(state: State) -> str:
    duration = state.max_duration
    if duration is None or duration.unit != TimeUnit.EPOCH:
        return ''
    return f'epoch {min(int(state.timestamp.epoch) + 1, duration.value)} of {duration.value}'
