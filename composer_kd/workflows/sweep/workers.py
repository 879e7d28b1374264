"""Worker processes that run trials, each with its share of the machine; they end with the sweep's process."""

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
    """Computes a worker's environment variables: its number of threads and, with CUDA, one GPU.

    Args:
        workers: The number of workers.
        index: The index of the worker, from 0.

    Returns:
        The environment variables with their values.

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
    """A process that runs one trial after another, and is replaced when it has died or has run many trials.

    The process is spawned, not forked, because a fork would inherit torch's threads and the accelerator's state.

    Args:
        environment: The environment variables of the process.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.busy: Any = None  # the running trial
        self.connection: Connection | None = None
        self._process: Any = None
        self._done = 0

    def start(self, trial: Any, job: Job) -> None:
        """Starts a trial.

        Args:
            trial: The Optuna trial, which is kept as ``busy`` until the trial ends.
            job: The description of the trial.
        """
        if self._process is not None and (self._done >= TRIALS_OF_A_WORKER or not self._process.is_alive()):
            self.stop()
        if self._process is None:
            self._spawn()
        self.busy = trial
        self._send(job)

    def receive(self) -> tuple[str, Any]:
        """Receives the next message of the process, or notices its death.

        Returns:
            ``'report'`` and ``(step, value)``, ``'end'`` and the outcome, or ``'lost'`` and the exit code.
        """
        assert self.connection is not None
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):  # the process died, perhaps in the middle of a message
            self._process.join(SECONDS_TO_END)
            kind, content = 'lost', self._process.exitcode
            self.stop()
        if kind != 'report':
            self.busy = None
            self._done += 1
        return kind, content

    def answer(self, stop: bool) -> None:
        """Answers a report: tells the process whether to stop the trial."""
        self._send(stop)

    def stop(self) -> None:
        """Ends the process, even in the middle of a trial."""
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
        """Sends a message; ``receive`` notices a process that has died meanwhile."""
        assert self.connection is not None
        with contextlib.suppress(OSError):
            self.connection.send(content)

    def _spawn(self) -> None:
        context = multiprocessing.get_context('spawn')
        self.connection, theirs = context.Pipe()
        # Not a daemon, because daemons cannot start the worker processes of a DataLoader.
        self._process = context.Process(target=_work, args=(theirs,), name='sweep-worker')
        with _variables(self.environment), _without_interrupt():
            self._process.start()
        theirs.close()  # so that `receive` notices the end of the process


def ready(workers: list[Worker], seconds: float) -> list[Worker]:
    """Waits until a busy worker has sent a message or died.

    Args:
        workers: All workers.
        seconds: The maximal waiting time.

    Returns:
        The busy workers that have sent a message or died.
    """
    busy = {worker.connection: worker for worker in workers if worker.busy is not None}
    return [busy[connection] for connection in wait([c for c in busy if c is not None], seconds)]  # type: ignore[index]


def serve(connection: Connection) -> None:
    """Runs jobs from a connection until it is closed.

    Args:
        connection: The connection for incoming jobs and outgoing reports and outcomes.
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
    if parent is None or parent.is_alive():  # otherwise the next sweep may already run the same trial
        serve(connection)


def _end_with_parent() -> None:
    """Ends this process when the sweep's process is killed, before the next sweep writes to the same folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _without_interrupt() -> Iterator[None]:
    """Blocks Ctrl-C in processes started here, from their start; the sweep's own process handles it and ends them."""
    resource_tracker.ensure_running()  # its first start would unblock the signal
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
