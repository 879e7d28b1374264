"""A worker that dies between two words, or in the middle of one."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import signal
import struct
from types import SimpleNamespace

import pytest

from composer_kd.workflows.sweep.trial import Job
from composer_kd.workflows.sweep.workers import Worker, ready

JOB = Job(0, 'run.yaml', (), 'loss', 'out')


@pytest.fixture
def dying():
    """A worker whose process has been killed unnoticed, and the end of its pipe."""
    worker = Worker({})
    worker.connection, theirs = multiprocessing.Pipe()
    done = {'join': lambda seconds=None: None, 'terminate': lambda: None}
    alive = iter([True])
    worker._process = SimpleNamespace(exitcode=-9, is_alive=lambda: next(alive, False), **done)
    return worker, theirs


def test_a_job_for_a_dead_worker_is_a_loss_and_no_error(dying):
    worker, theirs = dying
    theirs.close()
    worker.start('trial', JOB)
    assert ready([worker], 5) == [worker]
    assert worker.receive() == ('lost', -9)
    assert worker.busy is None


def test_half_a_word_is_a_loss_and_no_error(dying):
    worker, theirs = dying
    worker.start('trial', JOB)
    assert theirs.recv() == JOB
    os.write(theirs.fileno(), struct.pack('!i', 100) + b'half')
    theirs.close()
    assert worker.receive() == ('lost', -9)


@pytest.mark.skipif(not pathlib.Path('/proc/self/status').exists(), reason='reads what Linux says of a process')
def test_ctrl_c_does_not_reach_a_worker_though_it_only_starts():
    """A terminal interrupts the workers too, which import torch for seconds before any code of theirs runs."""
    worker = Worker({})
    worker.start('trial', JOB)
    try:
        status = pathlib.Path(f'/proc/{worker._process.pid}/status').read_text()
        blocked = int(next(line for line in status.splitlines() if line.startswith('SigBlk')).split()[1], 16)
        assert blocked & 1 << signal.SIGINT - 1
    finally:
        worker.stop()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
