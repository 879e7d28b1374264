"""Conflicts between settings of a run that are valid on their own, and with the machine that it starts on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from composer.utils import dist, parse_uri

if TYPE_CHECKING:
    from composer_kd.config.schema import RunConfig

__all__ = ['conflicts_of']


def conflicts_of(run: RunConfig) -> Iterator[str]:
    """Finds conflicts in the settings of a run; required keys with faults may be None.

    Args:
        run: The settings.

    Yields:
        One line for each conflict, which starts with the dotted key.
    """
    for rules in (_sizes, _device, _compiling, _evaluation, _labels, _files, _resuming):
        yield from rules(run)


def _sizes(run: RunConfig) -> Iterator[str]:
    world, batch, micro = dist.get_world_size(), run.global_train_batch_size, run.device_train_microbatch_size
    if batch is None:
        return
    share = max(1, batch // world)
    if batch % world != 0:
        yield f'global_train_batch_size: expected a multiple of the {world} processes, got {batch}'
    if isinstance(micro, int) and micro > share:
        yield f'device_train_microbatch_size: expected at most {share}, the batch of a process, got {micro}'


def _device(run: RunConfig) -> Iterator[str]:
    if run.fsdp_config is not None and run.parallelism_config is not None and run.parallelism_config.fsdp is not None:
        yield 'parallelism_config.fsdp: is the same as fsdp_config; keep one of them'
    if torch.cuda.is_available():
        return
    if run.device_train_microbatch_size == 'auto':
        yield "device_train_microbatch_size: 'auto' tries sizes on a GPU, and there is none; give a number"
    if run.precision is not None and str(run.precision).lower() != 'fp32':
        yield f"precision: a run on the CPU is 'fp32', got {run.precision!r}"
    if run.sharding is not None:
        key = 'parallelism_config.fsdp' if run.fsdp_config is None else 'fsdp_config'
        yield f'{key}: shards a model over GPUs, and there is none; leave it out'


def _compiling(run: RunConfig) -> Iterator[str]:
    if run.compile_config is None:
        return
    try:
        torch.compile(torch.nn.Identity(), **run.compile_config)  # compiles nothing before it is called
    except Exception as error:  # an unknown backend, mode or option: each has an error of its own
        reason = ' '.join(str(error).split())[:300] or type(error).__name__
        yield f'compile_config: torch.compile refuses it: {reason}'
        return
    compilers = [os.environ.get('CXX') or 'g++', 'clang++', 'c++']
    by_inductor = run.compile_config.get('backend', 'inductor') == 'inductor' and not run.compile_config.get('disable')
    if by_inductor and not torch.cuda.is_available() and not any(map(shutil.which, compilers)):
        yield (
            "compile_config: on the CPU, torch's Inductor needs a C++ compiler, and there is none: g++, clang++, or "
            'what CXX names in the environment. Install one, or give {backend: aot_eager}, or leave compile_config out'
        )


def _evaluation(run: RunConfig) -> Iterator[str]:
    trained, evaluated = (getattr(loader, 'hold_out', None) for loader in (run.train_loader, run.eval_loader))
    if trained is None and evaluated is not None:
        yield 'eval_loader.hold_out: needs train_loader.hold_out too, or what is evaluated on is trained on as well'
    if getattr(run.eval_loader, 'samples_per_epoch', None) is not None:
        yield 'eval_loader.samples_per_epoch: an evaluation goes through its samples once; leave it out'
    if getattr(run.eval_loader, 'views', None) is not None:
        yield 'eval_loader.views: an evaluation needs its samples without random transforms; leave it out'


def _labels(run: RunConfig) -> Iterator[str]:
    labels = [one.label for one in run.evaluators if one is not None]
    for label in dict.fromkeys(labels):
        if labels.count(label) > 1:
            yield f'evaluators: {labels.count(label)} have the label {label!r}; give each a label of its own'


def _files(run: RunConfig) -> Iterator[str]:
    name, folder = str(run.run_name), run.folder
    if not name.isprintable() or {'.', '..'} & set(name.split('/')):
        yield f"run_name: expected a name without control characters and without '..' as a folder, got {name!r}"
    elif folder is not None and not _is_plain_path(str(folder)):
        yield (
            f'save_folder: Composer reads {str(folder)!r} as a URI, and would save checkpoints elsewhere; leave #, ?, '
            '; and a leading word with a colon out of run_name and save_folder'
        )
    for key in ('save_filename', 'save_latest_filename'):
        if '{run_name}' in getattr(run, key) and '/' in name:
            yield f"{key}: {{run_name}} has a '/' in it, {name!r}, and this is the name of a file; leave it out"
    if run.profiler is not None and run.folder is None and '{save_folder}' in run.profiler.folder:
        yield 'profiler.folder: needs a save_folder on this machine for {save_folder}; give a folder of its own'


def _is_plain_path(folder: str) -> bool:
    """Whether Composer, which parses a save folder as a URI, finds all of it to be a path."""
    try:
        return parse_uri(folder) == ('', '', folder)
    except ValueError:
        return False


def _resuming(run: RunConfig) -> Iterator[str]:
    if run.load_ignore_keys and run.load_path is None:
        yield f'load_ignore_keys: needs load_path, of whose checkpoint it leaves parts out, got {run.load_ignore_keys}'
    if not run.autoresume:
        return
    if run.save_folder is None:
        yield 'autoresume: needs a save_folder to find the latest checkpoint in, got save_folder: null'
    if run.save_overwrite is True:
        yield 'save_overwrite: true would overwrite the checkpoints that autoresume is to go on from; leave it out'
    if run.save_weights_only:
        yield 'save_weights_only: autoresume needs full checkpoints, with the optimizer; got true'
