"""The training history: the numbers logged at each batch, written during training and read by reports."""

from __future__ import annotations

import itertools
import json
import math
import os
import pathlib
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist
from typing_extensions import override

from composer_kd.errors import ConfigError
from composer_kd.presentation.files import write_file

__all__ = ['HISTORY_FILE', 'HistoryLogger', 'curve', 'read_history']

HISTORY_FILE = 'history.jsonl'

_SECONDS_BETWEEN_FLUSHES = 1.0
_RUN = 'run_id'
# Left out, because each record has batch, epoch and sample already.
_KNOWN = frozenset(f'time/{unit}' for unit in ('batch', 'epoch', 'sample', 'batch_in_epoch', 'sample_in_epoch'))
# A run that goes on from the last batch of an epoch ends that epoch without a batch, and computes these from none: they
# are what they were after the last batch.
_OF_A_BATCH = 'metrics/train/'
# JSON cannot represent these numbers, but a diverged loss must be recorded too.
_NOT_FINITE = {'NaN': math.nan, 'Infinity': math.inf, '-Infinity': -math.inf}
_encode = json.JSONEncoder(allow_nan=False).encode


class HistoryLogger(LoggerDestination):
    """Appends each number that a run logs to ``history.jsonl``, one JSON object per batch.

    ``{"batch": 12, "epoch": 1, "sample": 384, "loss/train/total": 0.7, "metrics/eval/MulticlassAccuracy": 0.9}`` was
    logged after 12 steps. The metrics are those of an evaluation, and the loss is that of the next batch; both were
    computed with the weights after 12 steps. W&B and other loggers show them at step 12, too.

    The file is flushed about once per second, whenever a checkpoint is saved, and when the Trainer is closed;
    ``composer-kd train`` closes it also after an error. A run that resumes from its own checkpoint drops the lines
    after that checkpoint and appends; any other run starts a new file. Only rank 0 writes.

    Args:
        folder: The folder of the file; created if it does not exist.
        goes_on: Whether a checkpoint that the run starts from is one of the run in this folder, as with ``autoresume``:
            it warns then also if there is no file.

    Example:
        >>> HistoryLogger('runs/digits-kd').file.name
        'history.jsonl'
    """

    def __init__(self, folder: str | pathlib.Path, goes_on: bool = False) -> None:
        self.file = pathlib.Path(folder) / HISTORY_FILE
        self._goes_on = goes_on
        self.run_id = uuid.uuid4().hex  # identifies the file that belongs to a checkpoint
        self._state: State | None = None
        self._stream: TextIO | None = None
        self._record: dict[str, Any] = {}  # numbers logged at _batch that are not written yet
        self._batch = self._epoch = self._sample = 0
        self._flushed = 0.0
        self._has_trained = False  # since fit() began
        self._of_last_batch: dict[str, Any] = {}  # what the record of a resumed run has last of these

    @override
    def init(self, state: State, logger: Logger) -> None:
        self._state = state

    @override
    def state_dict(self) -> dict[str, Any]:
        """Returns the id of the run, by which a resumed run recognises its file.

        What is logged so far is written first: a checkpoint that can be gone on from needs the lines before it, and
        Composer saves checkpoints before it runs the other events of its loggers.
        """
        if self._stream is not None:
            self.flush()
        return {_RUN: self.run_id}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the id of the run from a checkpoint, because this run continues that one."""
        self.run_id = state[_RUN]

    @override
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Adds the numbers among the metrics to the record of the batch; other values are ignored."""
        if self._state is None:
            return
        timestamp = self._state.timestamp
        batch = timestamp.batch.value if step is None else step
        if batch != self._batch:
            self._write()
            self._batch = batch
        self._epoch, self._sample = timestamp.epoch.value, timestamp.sample.value
        for key, value in metrics.items():
            if key not in _KNOWN:
                if key.startswith(_OF_A_BATCH) and not self._has_trained:
                    value = self._of_last_batch.get(key)
                number = value if type(value) is float else _number(value)
                if number is not None:
                    self._record[key] = number

    @override
    def fit_start(self, state: State, logger: Logger) -> None:
        """Opens the file, so that a folder without write permission causes an error before the first batch."""
        if dist.get_global_rank() == 0:
            self._opened()
        self.flush()
        self._has_trained = False

    @override
    def batch_start(self, state: State, logger: Logger) -> None:
        self._has_trained = True

    @override
    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        self.flush()

    @override
    def eval_end(self, state: State, logger: Logger) -> None:
        self.flush()

    @override
    def fit_end(self, state: State, logger: Logger) -> None:
        self.flush()

    @override
    def close(self, state: State, logger: Logger) -> None:
        if self._record:
            self.flush()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def flush(self) -> None:
        """Writes all numbers logged so far; later numbers of the same batch go into a further line."""
        self._write()
        if self._stream is not None:
            self._stream.flush()
            self._flushed = time.monotonic()

    def mute(self) -> None:
        """Ignores what is logged from now on, so that a finished run that is evaluated again keeps its file."""
        self._state, self._record = None, {}

    def _write(self) -> None:
        record, self._record = self._record, {}
        if not record or dist.get_global_rank() != 0:
            return
        stream = self._opened()
        when = {'batch': self._batch, 'epoch': self._epoch, 'sample': self._sample}
        stream.write(_line({**when, **record}))
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            stream.flush()
            self._flushed = time.monotonic()

    def _opened(self) -> TextIO:
        """Returns the open file; it is opened at the first write, so building a Trainer leaves the folder unchanged."""
        if self._stream is None:
            assert self._state is not None
            now = self._state.timestamp
            self.file.parent.mkdir(parents=True, exist_ok=True)
            is_lost = self._goes_on or _is_emptied(self.file)
            found = _kept(self.file, self.run_id, now.batch.value)
            _say_what_is_missing(self.file, found, now.batch.value, is_lost)
            records = found or [
                {**{unit: getattr(now, unit).value for unit in ('batch', 'epoch', 'sample')}, _RUN: self.run_id}
            ]
            for record in records:
                self._of_last_batch |= {key: value for key, value in record.items() if key.startswith(_OF_A_BATCH)}
            write_file(self.file, ''.join(map(_line, records)))
            self._stream = open(self.file, 'a', encoding='utf-8', buffering=1 << 16)  # noqa: SIM115
        return self._stream


def read_history(folder: str | pathlib.Path) -> list[dict[str, Any]]:
    """Reads the history of a run.

    Args:
        folder: The folder of the run, or its ``history.jsonl``.

    Returns:
        One dict for each batch at which numbers were logged, in ascending order, with ``batch``, ``epoch``, ``sample``
        and these numbers. An incomplete last line, which a killed run may leave, is skipped.

    Raises:
        ConfigError: If the file does not exist, or a line before the last is not a record.
    """
    path = pathlib.Path(folder)
    path = path / HISTORY_FILE if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f'no training history {path}: `composer-kd train` writes one into the save_folder of a run')
    merged: dict[int, dict[str, Any]] = {}
    for record in _records(path):
        merged.setdefault(record['batch'], {}).update(record)
    return [merged[batch] for batch in sorted(merged)]


def curve(history: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Extracts one quantity from a history.

    Args:
        history: The result of ``read_history``.
        key: The quantity, such as ``'loss/train/total'``.

    Returns:
        The batches at which it was logged, and its values; both empty if it was never logged.

    Example:
        >>> curve([{'batch': 0, 'loss': 2.0}, {'batch': 1}, {'batch': 2, 'loss': 1.0}], 'loss')
        ([0, 2], [2.0, 1.0])
    """
    points = [(record['batch'], float(record[key])) for record in history if key in record]
    return [batch for batch, _ in points], [value for _, value in points]


def _records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    with open(path, 'rb') as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                record['batch'] = int(record['batch'])
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                if not file.read(1):
                    return  # an incomplete last line
                raise ConfigError(f'{path}, line {number}: no JSON object with a batch: {line[:80]!r}') from error
            yield {key: _NOT_FINITE.get(value, value) if type(value) is str else value for key, value in record.items()}


def _kept(path: pathlib.Path, run_id: str, batch: int) -> list[dict[str, Any]]:
    """Returns the records up to a checkpoint, if the file is of the run that saved it; sets a damaged one aside."""
    if not path.is_file():
        return []
    try:
        records = list(_records(path))
    except ConfigError as error:
        aside = _unused(path.with_name(f'{path.name}.damaged'))
        os.replace(path, aside)
        warnings.warn(f'{error}. It is kept as {aside.name}, and the history starts anew', stacklevel=2)
        return []
    mine = any(record.get(_RUN) == run_id for record in records[:1])
    return [record for record in records if record['batch'] <= batch] if mine else []


def _unused(path: pathlib.Path) -> pathlib.Path:
    """The path, or the first of those with a number that nothing lies at."""
    numbered = (path.with_name(f'{path.name}-{number}') for number in itertools.count(2))
    return next(place for place in itertools.chain([path], numbered) if not os.path.lexists(place))


def _is_emptied(path: pathlib.Path) -> bool:
    """Whether a file lacks even its first line, which is written with it: a power cut can leave it so."""
    if not path.is_file():
        return False
    with open(path, 'rb') as file:
        return not file.readline().endswith(b'}\n')


def _say_what_is_missing(path: pathlib.Path, records: list[dict[str, Any]], batch: int, is_lost: bool) -> None:
    """Warns if the file ends before the checkpoint that a run goes on from, as after a power cut.

    The numbers of a batch stand at the number of batches before it, and each batch has some. A run that starts from a
    checkpoint of another folder has no records here.
    """
    last = records[-1]['batch'] if records else -1 if is_lost else batch
    if last < batch - 1:
        warnings.warn(
            f'{path} ends too early: nothing is known of the batches from {last + 1} to {batch}', stacklevel=2
        )


def _line(record: dict[str, Any]) -> str:
    try:
        return f'{_encode(record)}\n'
    except ValueError:  # not finite
        return f'{_encode({key: _named(value) for key, value in record.items()})}\n'


def _named(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return 'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'


def _number(value: Any) -> float | int | None:
    if isinstance(value, int):
        return int(value)
    item = getattr(value, 'item', None)
    if item is None or getattr(value, 'size', None) is None:
        return float(value) if isinstance(value, float) else None
    try:
        value = item()  # a tensor or array with one element
    except (RuntimeError, ValueError):
        return None
    return value if isinstance(value, (int, float)) else None
