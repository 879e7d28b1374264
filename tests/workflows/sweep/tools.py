"""A small sweep on the digits, written to a file, and workers that are threads: a process takes seconds to start."""

from __future__ import annotations

import multiprocessing
import threading

import yaml

from composer_kd.workflows.sweep.plan import make_plan
from composer_kd.workflows.sweep.search import Settings, search
from composer_kd.workflows.sweep.sweep_file import read_sweep
from composer_kd.workflows.sweep.workers import Worker, serve

ACCURACY = 'metrics/eval/MulticlassAccuracy'
BASE = 'yamls/digits/student.yaml'
SMALL = ['train_loader.dataset.subset=120', 'train_loader.hold_out=0.25', 'max_duration=3ep', 'eval_interval=1ep']
PARAMETERS = {
    'optimizer.lr': {'distribution': 'log_uniform_values', 'min': 1e-3, 'max': 0.3},
    'optimizer.momentum': {'values': [0.0, 0.9]},
}


def written(*overrides, parameters=None, base=BASE, **keys):
    """A sweep as a mapping."""
    command = ['composer-kd', 'train', str(base), *(overrides or SMALL), '${args_no_hyphens}']
    metric = {'name': ACCURACY, 'goal': 'maximize'}
    return {'method': 'random', 'metric': metric, 'command': command, 'parameters': parameters or PARAMETERS, **keys}


def write(folder, *overrides, name='sweep.yaml', **keys):
    """Writes it to a file."""
    file = folder / name
    file.write_text(yaml.safe_dump(written(*overrides, **keys), sort_keys=False))
    return file


def plan(folder, *overrides, **keys):
    return make_plan(read_sweep(write(folder, *overrides, **keys)))


def run(plan, out, trials=4, **settings):
    return search(plan, Settings(out, trials, **settings))


class ThreadWorker(Worker):
    """Runs its trials in a thread of this process, and is otherwise the real one."""

    def _spawn(self):
        self.connection, theirs = multiprocessing.Pipe()
        self._process = _Thread(target=serve, args=(theirs,), daemon=True)
        self._process.start()


class _Thread(threading.Thread):
    exitcode = 0

    def terminate(self):
        pass

    kill = terminate
