"""Processes with gloo, started by the composer launcher."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 1200  # far more than any case takes alone: the machine may be busy with others
TAKEN = 'address already in use'  # the launcher chooses a free port, which another one may take before it does


def launched(processes, *command, cwd=ROOT):
    """Runs a command in several processes to its end; returns what they printed."""
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
