"""The tables of ``knowledge.py``."""

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

__all__ = ['table', 'write']

_ABOUT = """\
Test accuracy in % after the last batch, mean ± standard error over the seeds {seeds}, which choose initial weights,
order and labels; one teacher for all seeds. Every run takes {batches:,} batches of 64 augmented images of 16x16 pixels
({epochs:.2f} times the 45,000 that are trained on), with AdamW and a cosine schedule, at the best of the learning rates
{rates}: chosen for each cell alike, by a run of a quarter of the length, with another seed, on 5,000 held-out training
images. With 2,000 labels, half of the images that a taught student sees are of the 2,000, the others have no label; the
student alone sees the 2,000 only, over as many batches. The teachers were trained on all labels.

Weights are the published ones, fixed before any run; they were made for longer training of larger networks. Gradients
are not clipped, and those of a loss that is scaled by T² are up to T times those of cross-entropy. CRD has 1,024
negatives (published: 16,384), and in less than an epoch hardly any entry of its memory is read after it was written:
its row says little. CPU seconds are those of a run with all labels, in the mean over the seeds, on one thread
of a shared machine. A schedule so short tells what a method gains at once, not where it ends."""


def write(
    options: argparse.Namespace,
    pairs: dict[str, Any],
    titles: dict[str, str],
    teachers: dict[str, Any],
    rates: dict[Any, float],
    runs: dict[Any, dict[str, Any]],
    tuned: dict[Any, dict[str, Any]],
) -> None:
    """Writes ``knowledge.md`` and ``knowledge.json``.

    Args:
        options: The command line's.
        pairs: The pairs of models, as in ``methods.yaml``.
        titles: The methods' names, in the order of the rows.
        teachers: The teachers' own results.
        rates: The learning rate chosen for each cell.
        runs: The result of each ``(cell, seed)`` so far.
        tuned: The result of each ``(cell, rate)``.
    """
    seeds = sorted({seed for _, seed in runs}, key=options.seeds.index)
    command = f'python benchmarks/knowledge.py --data ROOT --work DIR --seeds {" ".join(map(str, options.seeds))}'
    for name in ('pairs', 'methods'):
        command += f' --{name} {" ".join(getattr(options, name))}' if getattr(options, name) else ''
    command += f' --workers {options.workers} --batches {options.batches}'
    command += f' --teacher-batches {options.teacher_batches}' if options.teacher_batches else ''
    about = _ABOUT.format(seeds=', '.join(map(str, seeds)), batches=options.batches,
                          epochs=64 * options.batches / 45_000,
                          rates=', '.join(f'{rate:g}' for rate in sorted({rate for _, rate in tuned})))  # fmt: skip
    environment = f'torch {torch.__version__}, composer {composer.__version__}, {os.cpu_count()} CPUs, 1 thread a run'
    text = ['# What each kind of knowledge gains', f'`{command}`', environment, about]
    for pair, described in pairs.items():
        teacher = teachers[described['teacher']]
        text += [f'## {described["title"]}', f'The teacher: {100 * teacher["accuracy"]:.1f} %, '
                 f'{teacher["batches"]:,} batches, {teacher["cpu"]:.0f} CPU seconds.',
                 table(pair, titles, described['not_defined'], seeds, rates, runs)]  # fmt: skip
    found = {
        'command': command,
        'environment': environment,
        'teachers': teachers,
        'tuning': [{**vars(cell), 'rate': rate, **_plain(result)} for (cell, rate), result in tuned.items()],
        'runs': [{**vars(cell), 'seed': seed, 'rate': rates[cell], **_plain(result)}
                 for (cell, seed), result in runs.items()],
        'not_defined': {pair: described['not_defined'] for pair, described in pairs.items()},
    }  # fmt: skip
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / 'knowledge.md').write_text('\n\n'.join(text) + '\n', encoding='utf-8')
    (out / 'knowledge.json').write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')


def table(
    pair: str,
    titles: dict[str, str],
    not_defined: dict[str, str],
    seeds: list[int],
    rates: dict[Any, float],
    runs: dict[Any, dict[str, Any]],
) -> str:
    """The Markdown table of a pair: a row for each method, a column for each setting."""
    settings = list(dict.fromkeys(cell.setting for cell in rates))
    rows = []
    for method, title in titles.items():
        if method in not_defined:
            rows.append([title, f'not defined: {not_defined[method]}', *[''] * (len(settings) + 1)])
            continue
        cells = [next(c for c in rates if (c.pair, c.setting, c.method) == (pair, setting, method))
                 for setting in settings]  # fmt: skip
        costs = [runs[cells[0], seed]['cpu'] for seed in seeds if 'cpu' in runs[cells[0], seed]]
        rows.append([
            title,
            *(_accuracy([runs[cell, seed] for seed in seeds]) for cell in cells),
            f'{statistics.mean(costs):.1f}' if costs else '',
            ', '.join(f'{rates[cell]:g}' for cell in cells),
        ])  # fmt: skip
    return markdown_table(['method', *settings, 'CPU seconds', 'learning rates'], rows)


def _accuracy(results: list[dict[str, Any]]) -> str:
    good = [100 * result['accuracy'] for result in results if 'failed' not in result]
    failed = [result['failed'] for result in results if 'failed' in result]
    shown = f'{statistics.mean(good):.1f}' if good else ''
    if len(good) > 1:
        shown += f' ± {statistics.stdev(good) / len(good) ** 0.5:.1f}'
    if failed:
        why = 'diverged' if failed[0].startswith('diverged') else f'failed ({failed[0][:60]})'
        shown += f'{", " if good else ""}{len(failed)} of {len(results)} {why}'
    return shown


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != 'name'}
