"""Processes that run trials: each with its share of the machine, and gone when the sweep's process is."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from composer_kd.workflows.sweep.trial import Job, execute

__all__ = ['Worker', 'ready', 'serve', 'share']

# Composer keeps the data and models of every run until its process ends.
TRIALS_OF_A_WORKER = 20
SECONDS_TO_END = 5


def share(workers: int, index: int) -> dict[str, str]:
    """The environment of a worker: its threads, and where there are GPUs, one of them.

    Args:
        workers: How many there are.
        index: Which one, from 0.

    Returns:
        Variables and values.

    Example:
        >>> sorted(share(2, 0))[-1]
        'OMP_NUM_THREADS'
    """
    import torch

    threads = max(1, torch.get_num_threads() // workers)
    found = {'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)}
    if torch.cuda.is_available():
        visible = os.environ.get('CUDA_VISIBLE_DEVICES')
        devices = visible.split(',') if visible else [str(i) for i in range(torch.cuda.device_count())]
        found['CUDA_VISIBLE_DEVICES'] = devices[index % len(devices)]
    return found


class Worker:
    """A process that runs one trial after another; a new one is started where it has died or run many.

    It is spawned, not forked: a fork would inherit torch's threads and an accelerator's state.

    Args:
        environment: Variables that it is started with.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.busy: Any = None  # the trial that it runs
        self.connection: Connection | None = None
        self._process: Any = None
        self._done = 0

    def start(self, trial: Any, job: Job) -> None:
        """Gives it a trial.

        Args:
            trial: Kept as ``busy`` until the trial has ended.
            job: What is to be run.
        """
        if self._process is not None and (self._done >= TRIALS_OF_A_WORKER or not self._process.is_alive()):
            self.stop()
        if self._process is None:
            self._spawn()
        self.busy = trial
        self._send(job)

    def receive(self) -> tuple[str, Any]:
        """What it says: ``report`` and ``(step, value)``, ``end`` and the outcome, or ``lost`` and the exit code."""
        assert self.connection is not None
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):  # it may have died in the middle of a word
            self._process.join(SECONDS_TO_END)
            kind, content = 'lost', self._process.exitcode
            self.stop()
        if kind != 'report':
            self.busy = None
            self._done += 1
        return kind, content

    def answer(self, stop: bool) -> None:
        """Answers a report."""
        self._send(stop)

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        if self._process is None:
            return
        if self.connection is not None:
            self.connection.close()
        self._process.terminate()
        self._process.join(SECONDS_TO_END)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process, self.connection, self.busy, self._done = None, None, None, 0

    def _send(self, content: Any) -> None:
        """Sends it; a worker that has died meanwhile is noticed when it is next listened to."""
        assert self.connection is not None
        with contextlib.suppress(OSError):
            self.connection.send(content)

    def _spawn(self) -> None:
        context = multiprocessing.get_context('spawn')
        self.connection, theirs = context.Pipe()
        # Not a daemon: it may have workers of its own that load data.
        self._process = context.Process(target=_work, args=(theirs,), name='sweep-worker')
        with _variables(self.environment), _without_interrupt():
            self._process.start()
        theirs.close()  # so that its end is noticed


def ready(workers: list[Worker], seconds: float) -> list[Worker]:
    """Waits for busy workers.

    Args:
        workers: All workers.
        seconds: How long at most.

    Returns:
        Those that have something to say, or have died.
    """
    busy = {worker.connection: worker for worker in workers if worker.busy is not None}
    return [busy[connection] for connection in wait([c for c in busy if c is not None], seconds)]  # type: ignore[index]


def serve(connection: Connection) -> None:
    """Runs the jobs that come, until no more can come.

    Args:
        connection: Jobs come from it; reports and outcomes go to it.
    """

    def report(step: int, value: float) -> bool:
        connection.send(('report', (step, value)))
        return bool(connection.recv())

    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(('end', execute(job, report)))


def _work(connection: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', '1')))

    parent = multiprocessing.parent_process()
    if parent is None or parent.is_alive():  # else the next sweep may be at work on the same trial
        serve(connection)


def _end_with_parent() -> None:
    """A sweep that was killed cannot end its workers, and they must not go on writing where the next one begins."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _without_interrupt() -> Iterator[None]:
    """Ctrl-C is for the sweep, which ends its workers: they inherit that it is held back, from their first moment."""
    resource_tracker.ensure_running()  # which would let it through again when it is first started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})
