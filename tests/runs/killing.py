"""Trains in a process of its own, which is killed at a moment of choice, as by a power cut or a scheduler."""

import functools
import json
import os
import signal

import torch

from composer_kd.callbacks.history import read_history
from composer_kd.config.load import load_config
from composer_kd.config.stages import has_stages, load_chain
from composer_kd.runs.train import train
from composer_kd.workflows.stages import run as stages
from composer_kd.workflows.stages import train_stages
from tests.launching import CONTEXT


def start(yaml, overrides, moment=None, count=1):
    """Starts a run; with a moment, it kills itself when it gets there for the ``count``-th time."""
    process = CONTEXT.Process(target=_run, args=(yaml, overrides, moment, count))
    process.start()
    return process


def finish(yaml, overrides):
    process = start(yaml, overrides)
    process.join(120)
    assert process.exitcode == 0


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def _run(yaml, overrides, moment, count):
    torch.set_num_threads(1)
    if moment is not None:
        {**MOMENTS, **BETWEEN_STAGES}[moment](count)
    if has_stages(yaml):
        train_stages(load_chain(yaml, overrides), quiet=True)
    else:
        train(load_config(yaml, overrides), quiet=True)


def _at(module, name, before, count):
    """Calls ``before``, then the patched function; the ``count``-th time, kills the process in between."""
    original, calls = getattr(module, name), []

    @functools.wraps(original)
    def patched(*args, **kwargs):
        calls.append(args)
        if len(calls) == count:
            before(*args, **kwargs)
            kill()
        return original(*args, **kwargs)

    setattr(module, name, patched)


def _half_a_file(state, filename):
    torch.save(state, filename)
    os.truncate(filename, os.path.getsize(filename) // 2)


def _full_size_of_nothing(state, filename):
    torch.save(state, filename)
    size = os.path.getsize(filename)
    with open(filename, 'r+b') as file:
        file.seek(size // 3)
        file.write(bytes(size // 3))


def _checkpoint(name, before):
    from composer.callbacks import CheckpointSaver
    from composer.utils import checkpoint

    places = {'_write_checkpoint_file': checkpoint, 'symlink': os, '_rotate_checkpoints': CheckpointSaver}
    return functools.partial(_at, places[name], name, before)


def _nothing(*args, **kwargs):
    pass


def _writing(file):
    def patch(count):
        import composer_kd.runs.train as module

        original = module.write_file
        module.write_file = lambda path, content: kill() if path.name == file else original(path, content)

    return patch


MOMENTS = {
    'before a checkpoint': lambda count: _checkpoint('_write_checkpoint_file', _nothing)(count),
    'in a checkpoint': lambda count: _checkpoint('_write_checkpoint_file', _half_a_file)(count),
    'in a checkpoint whose size is there already': lambda count: _checkpoint(
        '_write_checkpoint_file', _full_size_of_nothing
    )(count),
    'while the link is moved': lambda count: _checkpoint('symlink', _nothing)(count),
    'after the link was moved': lambda count: _checkpoint('_rotate_checkpoints', _nothing)(count),
    'before the settings': _writing('config.yaml'),
    'before the metrics': _writing('metrics.json'),
}


BETWEEN_STAGES = {
    'before a stage': lambda count: _at(stages, 'note_teachers', _nothing, count),
    'after its teachers are noted': lambda count: _at(stages, 'train', _nothing, count),
    'before the results': lambda count: _at(stages, 'write_results', _nothing, count),
    'before the generations are evaluated': lambda count: _at(stages, 'evaluate_together', _nothing, 1),
}


def record(folder):
    """What a run left, without what it cost and its id: metrics, history, and all tensors of the last checkpoint."""
    metrics = json.loads((folder / 'metrics.json').read_text())
    lines = [_without_costs(line) for line in read_history(folder)]
    content = torch.load(folder / 'latest-rank0.pt', weights_only=False)['state']
    tensors = dict(_tensors({name: content[name] for name in ('model', 'optimizers')}))
    return _without_costs(metrics), lines, tensors, int(content['timestamp']['Timestamp']['batch'])


def same(one, other):
    assert one[0] == other[0]
    assert one[1] == other[1]
    assert one[3] == other[3]
    assert one[2].keys() == other[2].keys()
    return all(torch.equal(value, other[2][name]) for name, value in one[2].items())


def _without_costs(record):
    return {key: value for key, value in record.items() if not key.startswith('cost/') and key != 'run_id'}


def _tensors(node, path=''):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, torch.Tensor):
            yield f'{path}{key}', value
        elif isinstance(value, (dict, list, tuple)):
            yield from _tensors(value, f'{path}{key}.')
