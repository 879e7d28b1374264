"""Processes with gloo, started by the composer launcher."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def launched(processes, *command, cwd=ROOT):
    """Runs a command in several processes to its end; returns what they printed."""
    done = subprocess.run(
        [sys.executable, '-m', 'composer.cli.launcher', '-n', str(processes), *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
