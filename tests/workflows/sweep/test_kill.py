"""The command in a process of its own, with worker processes, killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.workflows.sweep.test_search import files
from tests.workflows.sweep.tools import SMALL, write

SECONDS = 240  # at most, for anything that is waited for


def start(file, out, trials, workers):
    command = [sys.executable, '-m', 'composer_kd', 'sweep', str(file), '--out', str(out)]
    command += ['--trials', str(trials), '--workers', str(workers)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(true, process=None):
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, 'it took too long'
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def ended(out):
    return len(list(out.glob('trials/*/result.json')))


def workers_of(process):
    return [child for child in psutil.Process(process.pid).children(recursive=True) if child.is_running()]


def gone(processes):
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / 'out'
    file = write(tmp_path, *SMALL[:2], 'max_duration=15ep', 'eval_interval=1ep', method='bayes')
    first = start(file, out, trials=8, workers=2)
    wait_until(lambda: ended(out) >= 3, first)
    children = workers_of(first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_until(lambda: gone(children))  # its workers end themselves
    before = files(out)
    kept = {name.split('/')[0] for name in before}
    assert 3 <= len(kept) < 8
    assert len(list((out / 'trials').iterdir())) > len(kept)  # some were running

    second = start(file, out, trials=8, workers=2)
    said = second.communicate(timeout=SECONDS)[0]
    assert second.returncode == 0, said
    assert 'are run again' in said
    after = files(out)
    assert before.items() <= after.items()  # bit for bit
    told = json.loads((out / 'trials.json').read_text())['trials']
    assert [trial['number'] for trial in told] == list(range(8))
    assert all(trial['state'] in ('complete', 'pruned') for trial in told)
    assert len({json.dumps(trial['settings']) for trial in told}) == 8


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing_but_time_and_ctrl_c_ends_cleanly(tmp_path):
    out = tmp_path / 'out'
    file = write(tmp_path, *SMALL[:2], 'max_duration=20ep', 'eval_interval=1ep')
    process = start(file, out, trials=50, workers=1)
    wait_until(lambda: ended(out) >= 1 and (out / 'trials' / '001').is_dir(), process)
    worker = next(child for child in workers_of(process) if 'spawn_main' in ' '.join(child.cmdline()))
    worker.kill()
    wait_until(lambda: ended(out) >= 3, process)
    children = workers_of(process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 130, said
    assert 'its process died (SIGKILL, perhaps for want of memory); it is run again' in said
    assert 'the same command goes on' in said
    assert 'Traceback' not in said
    wait_until(lambda: gone(children))
    told = json.loads((out / 'trials.json').read_text())['trials']
    assert [trial['state'] for trial in told[:3]] == ['complete'] * 3
    assert (out / 'best.yaml').is_file()
    assert (out / 'history.png').is_file()
