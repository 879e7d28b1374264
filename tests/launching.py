"""Processes with gloo: started by the composer launcher, or forked from one that has imported everything."""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path

import torch
from composer.utils import get_free_tcp_port

ROOT = Path(__file__).parents[1]
SECONDS = 1200  # far more than any case takes alone: the machine may be busy with others
TAKEN = 'address already in use'  # the launcher chooses a free port, which another one may take before it does

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['tests.preloaded'])


def launched(processes, *command, cwd=ROOT):
    """Runs a command in several processes, as people do, to its end; returns what they printed."""
    done = _run(processes, command, cwd)
    if done.returncode and TAKEN in (done.stdout + done.stderr).lower():
        done = _run(processes, command, cwd)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def _run(processes, command, cwd):
    arguments = [sys.executable, '-m', 'composer.cli.launcher', '-n', str(processes), *command]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    launcher = subprocess.Popen(
        arguments,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = launcher.communicate(timeout=SECONDS)
    except BaseException:
        os.killpg(launcher.pid, signal.SIGKILL)  # with the processes that it started
        launcher.wait()
        raise
    return subprocess.CompletedProcess(arguments, launcher.returncode, out, err)


def forked(function, *arguments):
    """Calls a function in a process of its own, to its end; returns the exit code and what was printed.

    It is forked from one that has imported everything, which an interpreter of its own would do for seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, 'log.txt')
        process = CONTEXT.Process(target=_call, args=({}, log, function, arguments))
        process.start()
        _end([process])
        return process.exitcode, log.read_text()


def on_ranks(world_size, function, *arguments):
    """Calls a function in several forked processes, to which the environment says what the launcher would say."""
    shared = {'WORLD_SIZE': world_size, 'LOCAL_WORLD_SIZE': world_size, 'NODE_RANK': 0}
    shared |= {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': get_free_tcp_port()}
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, f'{rank}.txt') for rank in range(world_size)]
        processes = [
            CONTEXT.Process(target=_call, args=({**shared, 'RANK': rank, 'LOCAL_RANK': rank}, log, function, arguments))
            for rank, log in enumerate(logs)
        ]
        for process in processes:
            process.start()
        _end(processes)
        said = ''.join(log.read_text()[-3000:] for log in logs if log.exists())
    assert [process.exitcode for process in processes] == [0] * world_size, said


def _call(environment, log, function, arguments):
    with log.open('w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update({key: str(value) for key, value in environment.items()})
    torch.set_num_threads(1)
    atexit._clear()  # what the process that was forked has registered
    try:
        function(*arguments)
    finally:
        atexit._run_exitfuncs()


def _end(processes):
    """Waits for all; as soon as one fails, or time is up, kills those that would wait for it."""
    deadline, running = time.monotonic() + SECONDS, {process.sentinel: process for process in processes}
    while running:
        ended = [running.pop(sentinel) for sentinel in wait(running, max(0, deadline - time.monotonic()))]
        if not ended or any(process.exitcode for process in ended):
            break
    for process in processes:
        process.kill()
        process.join()
