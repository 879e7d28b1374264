"""The tables of ``schemes.py``."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
from typing import Any

import composer
import torch

from benchmarks.report import markdown_table
from composer_kd.presentation.units import bytes_text

__all__ = ['write']

_ABOUT = """\
Test accuracy in % after the last batch, mean ± standard error over the seeds, which choose initial weights, order and
labels; one teacher for all seeds (ResNet-56, public weights, 93.4 % on the test set; the deep CNN is trained here on
all labels). Every run takes {batches:,} batches of 128 augmented images ({epochs:g} times 50,000). With 2,000 labels
a taught student sees the other 48,000 images too, without a label; alone it sees the 2,000, in as many batches.
AdamW, cosine schedule with 5 % warm-up; the learning rates were chosen on 5,000 held-out images by runs of a third of
the length with another seed. `live` is run for one seed, to compare. What a method gained is paired with `alone` seed
by seed. CPU seconds are those of a run on one thread of a shared machine, without the building of the store, which
serves all runs; bytes are those of the store."""
_TITLES = {
    'alone': 'alone',
    'live': 'offline, live ResNet-56, KL',
    'dense': 'offline, stored dense, KL',
    'topk': 'offline, stored top-4, KL',
    'sampled': 'offline, stored 12 draws, KL',
    'dist': 'offline, stored dense, DIST',
    'deep': 'offline, deep CNN stored dense, KL',
    'assistant': 'assistant: ResNet-56, ResNet-8, student',
    'ema': "self: the student's average",
    'snapshot': 'self: the last epoch teaches the next',
    'teacher_free': 'no teacher: the virtual one',
    'born_again': 'born again, third generation',
    'mutual2': 'online: two nets',
    'mutual4': 'online: four nets',
    'small': 'ResNet-8 alone',
    'self': 'ResNet-8 that teaches itself',
}
_ALONE = {'self': 'small'}  # what a method is compared with, if it is not `alone`


def write(options: argparse.Namespace, study: Any) -> None:
    """Writes ``schemes.md`` and ``schemes.json``.

    Args:
        options: The command line's.
        study: The :class:`benchmarks.schemes.Study`, with all results so far.
    """
    environment = f'torch {torch.__version__}, composer {composer.__version__}, {os.cpu_count()} CPUs, 1 thread a run'
    command = f'python benchmarks/schemes.py --data ROOT --work DIR --epochs {options.epochs:g}'
    command += '' if set(options.methods) == set(_TITLES) else f' --methods {" ".join(options.methods)}'
    text = ['# Schemes of distillation on CIFAR-10', f'`{command}`', environment]
    text += [_ABOUT.format(batches=study.batches, epochs=options.epochs)]
    for setting, title in (('few', 'With 2,000 labels'), ('all', 'With all labels')):
        rows = _rows(study, setting)
        if rows:
            columns = ['method', 'accuracy', 'gained', 'by seed', 'CPU seconds', 'bytes', 'learning rate']
            text += [f'## {title}', markdown_table(columns, rows)]
            done = {cell.method for cell, _ in study.runs if cell.setting == setting}
            if missing := [said for method, said in _TITLES.items() if method not in done]:
                text += [f'Not run yet: {"; ".join(missing)}.']
    text += ['## Stores', markdown_table(['store', 'seconds', 'bytes'], _stores(study))]
    text += ['## Learning rates', markdown_table(*_rates(study))]
    options.out.mkdir(parents=True, exist_ok=True)
    pathlib.Path(options.out, 'schemes.md').write_text('\n\n'.join(text) + '\n', encoding='utf-8')
    found = {
        'command': command,
        'environment': environment,
        'runs': [
            {'method': cell.method, 'setting': cell.setting, 'seed': seed, 'rate': job.rate, **_plain(study.found[job])}
            for (cell, seed), job in study.runs.items()
        ],
        'tuning': [
            {'method': cell.method, 'setting': cell.setting, 'rate': rate, **_plain(result)}
            for (cell, rate), result in study.tuned.items()
        ],
        'stores': [{'store': task.name, **_plain(study.found[task])} for task in _stored(study)],
    }
    pathlib.Path(options.out, 'schemes.json').write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')


def _rows(study: Any, setting: str) -> list[list[str]]:
    rows = []
    runs = {key: study.found[job] for key, job in study.runs.items() if key[0].setting == setting}
    for method, title in _TITLES.items():
        mine = {seed: result for (cell, seed), result in runs.items() if cell.method == method}
        if not mine:
            continue
        job = next(job for (cell, _), job in study.runs.items() if (cell.method, cell.setting) == (method, setting))
        good = {seed: result['accuracy'] for seed, result in mine.items() if 'failed' not in result}
        bound = _ALONE.get(method, 'alone')
        alone = {seed: result['accuracy'] for (cell, seed), result in runs.items() if cell.method == bound}
        gained = [good[seed] - alone[seed] for seed in good if seed in alone and method not in ('alone', 'small')]
        bytes_of = '' if job.store is None else bytes_text(study.found[job.store]['bytes'])
        rows.append([
            title,
            _mean(list(good.values())),
            _mean(gained, '+'),
            ', '.join(f'{100 * value:.1f}' for value in good.values()),
            f'{statistics.mean(result["cpu"] for result in mine.values()):.0f}',
            bytes_of,
            f'{job.rate:g}',
        ])  # fmt: skip
    return rows


def _stored(study: Any) -> list[Any]:
    return [task for task in study.found if hasattr(task, 'form')]


def _stores(study: Any) -> list[list[str]]:
    return [
        [task.name, f'{study.found[task]["seconds"]:.0f}', bytes_text(study.found[task]['bytes'])]
        for task in _stored(study)
    ]


def _rates(study: Any) -> tuple[list[str], list[list[str]]]:
    rates = sorted({rate for _, rate in study.tuned})
    rows = []
    for cell in dict.fromkeys(cell for cell, _ in study.tuned):
        tried = {rate: study.tuned.get((cell, rate)) for rate in rates}
        rows.append([cell.title, *(f'{100 * one["accuracy"]:.1f}' if one else '' for one in tried.values())])
    return ['held-out accuracy', *(f'{rate:g}' for rate in rates)], rows


def _mean(values: list[float], sign: str = '') -> str:
    if not values:
        return ''
    error = f' ± {100 * statistics.stdev(values) / len(values) ** 0.5:.1f}' if len(values) > 1 else ''
    return f'{100 * statistics.mean(values):{sign}.1f}{error}'


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != 'name'}
