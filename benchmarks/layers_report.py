"""The tables of ``layers.py``."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import composer
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.layers_teachers import Parts, Stored
from benchmarks.paired import RULE, Difference, compare
from benchmarks.report import markdown_table
from composer_kd.presentation.units import bytes_text

__all__ = ['write']

_ABOUT = """\
Test accuracy in %, mean ± standard error over {seeds} seeds, which choose the order of the samples and the dropout. All
students of a task start with layers of one teacher, and see the same {samples:,} of the samples that it was fine-tuned
on, once, in {batches} batches of 32; texts are cut at {length} tokens. AdamW (decoupled), linear schedule with 10 %
warm-up. That is short: the tables say how students come out of little training, not where they end, and what holds of
one teacher need not hold of another. The distilled take 0.9 KL at temperature 2 from the stored logits of the teacher
and 0.1 cross-entropy. Layers are counted from 0, next to the input; strategies that keep the same ones are one row. All
together answer with the mean of their probabilities, at the cost of all. Learning rates were chosen on held-out samples
by runs of a third of the length of `top` and `bottom`, with another seed."""
_DATA = {
    'sst2': 'SST-2: trained on fragments and sentences of its training set; tested on {first} sentences of its '
    'validation set (`dev` below) and {others:,} samples of its training set, none of which shares a run of five '
    'tokens with another of them or with what is trained or chosen on.',
    'mnli': 'MNLI: the pairs of its matched validation set, cut into parts with different premises; tested on '
    '{others:,} pairs of {premises:,} premises.',
}
_DEV = 872
_TITLES = {'sst2': 'SST-2', 'mnli': 'MNLI, three classes'}
Cell = tuple[str, str]  # a method, and what was cut: strategies of equal layers are one
Right = dict[Cell, NDArray[np.bool_]]
_TOGETHER = 'all together'


def write(options: argparse.Namespace, study: Any) -> None:
    """Writes ``layers.md`` and ``layers.json``.

    Args:
        options: The command line's.
        study: The :class:`benchmarks.layers.Study`, with all results so far.
    """
    environment = f'torch {torch.__version__}, composer {composer.__version__}, {os.cpu_count()} CPUs, 1 thread a run'
    seeds = max((len(_seeds(study, task)) for task in study.layers), default=0)
    about = _ABOUT.format(seeds=seeds, batches=options.batches, samples=options.batches * 32, length=options.max_length)
    text = ['# Students cut out of a BERT: which layers', f'`{options.command}`', environment, about, RULE]
    found: dict[str, Any] = {'command': options.command, 'environment': environment}
    for task in study.layers:
        if _seeds(study, task):
            told, data = _task(study, task)
            text += told
            found[task] = data
    if study.varied:
        told, found['other settings'] = _varied(study)
        text += told
    if study.tuned:
        text += ['## Learning rates', markdown_table(*_rates(study))]
    options.out.mkdir(parents=True, exist_ok=True)
    pathlib.Path(options.out, 'layers.md').write_text('\n\n'.join(text) + '\n', encoding='utf-8')
    pathlib.Path(options.out, 'layers.json').write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')


def _task(study: Any, task: str) -> tuple[list[str], dict[str, Any]]:
    names, right = _names(study, task), _right_of(study, task)
    parts = study.found[Parts(study.teachers[task].basis)]
    cells = [cell for cell in right if cell[1] != _TOGETHER]
    methods = [method for method in ('alone', 'distilled') if any(cell[0] == method for cell in cells)]
    pairs = [((method, one), (method, other)) for method in methods for one, other in itertools.combinations(names, 2)]
    pairs += [(('distilled', name), ('alone', name)) for name in names]
    pairs += [((method, _TOGETHER), (method, name)) for method in methods for name in names]
    pairs = [pair for pair in pairs if all(cell in right for cell in pair)]
    differences = compare(right, pairs, parts['groups'], cells)
    by_pair = {(one.first, one.second): one for one in differences}
    columns, rows = _accuracies(study, task, names, right, by_pair)
    text = [f'## {_TITLES[task]}', _data(task, parts) + _teacher(study, task), markdown_table(columns, rows, left=2)]
    for method in methods:
        mine = [one for one in differences if {one.first[0], one.second[0]} == {method} and _TOGETHER not in one.first]
        text += [f'### Differences between strategies, {method}', markdown_table(*_matrix(names, mine, method))]
    missing = [f'{name}, {method}' for method in methods for name in names if (method, name) not in right]
    if missing:
        text.append(f'Left out, because a run of them diverged: {"; ".join(missing)}.')
    text += ['### What is larger than the noise', _said(differences)]
    told = [_plain(one) for one in differences]
    accuracies = [
        {'method': method, 'kept': kept, 'layers': names.get(kept), 'accuracies': value.mean(1).tolist()}
        for (method, kept), value in right.items()
    ]
    return text, {
        'teacher': study.found[study.teachers[task]]['accuracy'],
        'sizes': parts['sizes'],
        'rates': {method: study.rates[task, method] for method in methods},
        'students': accuracies,
        'differences': told,
    }


def _accuracies(
    study: Any, task: str, names: Mapping[str, Sequence[int]], right: Right, by_pair: Mapping[Any, Difference[Cell]]
) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name in [*names, _TOGETHER]:
        alone, distilled = right.get(('alone', name)), right.get(('distilled', name))
        gained = by_pair.get((('distilled', name), ('alone', name)))
        layers = ' '.join(map(str, names[name])) if name in names else ''
        row = [name if layers else f'{name}, {len(names)}', layers, _mean(alone), _mean(distilled)]
        rows.append([*row, '' if gained is None else _with_error(gained)])
        if task == 'sst2':
            rows[-1] += [_mean(one if one is None else one[:, :_DEV]) for one in (alone, distilled)]
    columns = ['keeps', 'layers', 'alone', 'distilled', 'gained, paired']
    return [*columns, *(['alone, dev', 'distilled, dev'] if task == 'sst2' else [])], rows


def _matrix(
    names: Mapping[str, Any], differences: Sequence[Difference[Cell]], method: str
) -> tuple[list[str], list[list[str]]]:
    """How much better the strategy of a row is than that of a column."""
    by_pair = {(one.first, one.second): one for one in differences}
    rows = []
    order = list(names)
    for name in order[:-1]:
        cells = [by_pair.get(((method, name), (method, other))) for other in order[1:]]
        rows.append([name, *('' if one is None else _with_error(one) for one in cells)])
    return ['more than', *order[1:]], rows


def _said(differences: Sequence[Difference[Cell]]) -> str:
    """In words, which differences are larger than the noise, and that all others are not."""
    if any(np.isnan(one.p) for one in differences):
        return 'Not judged: that takes two seeds.'
    needed = 100 * statistics.median(one.needed for one in differences)
    count = f'of {len(differences)} comparisons, of which a single one would need about {needed:.1f} points'
    larger = sorted((one for one in differences if one.is_larger), key=lambda one: -abs(one.mean))
    if not larger:
        return f'Larger than the noise, {count}: none. No difference of this table is to be relied upon.'
    lines = [f'- {_sides(one)}: {100 * abs(one.mean):.1f} ± {100 * one.error:.1f} points' for one in larger]
    rest = len(differences) - len(larger)
    return (
        f'Larger than the noise, {count}:\n\n'
        + '\n'.join(lines)
        + f'\n\nThe other {rest} are not: they may be the luck of seeds and of test samples.'
    )


def _sides(one: Difference[Cell]) -> str:
    """Which side is better than which, and what both have in common first."""
    (method, name), (other_method, other) = (one.first, one.second) if one.mean > 0 else (one.second, one.first)
    if method == other_method:
        return f'{method}: `{name}` over `{other}`'
    return f'`{name}`: {method} over {other_method}'


def _with_error(one: Difference[Any]) -> str:
    error = '' if np.isnan(one.error) else f' ± {100 * one.error:.1f}'
    text = f'{100 * one.mean:+.1f}{error}'
    return f'**{text}**' if one.is_larger else text


def _varied(study: Any) -> tuple[list[str], list[dict[str, Any]]]:
    task, strategy = 'sst2', 'spaced'
    seeds = sorted({seed for _, seed in study.varied if ('sst2', 'distilled', strategy, seed) in study.runs})
    labels, groups = _labels(study, task)
    right: dict[Any, NDArray[np.bool_]] = {}
    variations = list(dict.fromkeys(one for one, _ in study.varied))
    for method in dict.fromkeys(one.method for one in variations):
        base = [study.runs.get((task, method, strategy, seed)) for seed in seeds]
        _add(right, ('as in the tables', method), [study.found.get(run) for run in base], labels)
    for one in variations:
        results = [study.found.get(study.varied.get((one, seed))) for seed in seeds]
        _add(right, (f'{one.name} {one.value}', one.method), results, labels)
    pairs = [(cell, ('as in the tables', cell[1])) for cell in right if cell[0] != 'as in the tables']
    pairs = [pair for pair in pairs if pair[1] in right]
    differences = compare(right, pairs, groups, list(right))
    by_first = {one.first: one for one in differences}
    rows = [
        [said, method, _mean(value), _with_error(by_first[said, method]) if (said, method) in by_first else '']
        for (said, method), value in right.items()
    ]
    settings = 'temperature 2, batches of 32, dropout 0.1, weight decay 1e-5'
    text = [
        '## Other settings, SST-2, `spaced`',
        f'In the tables: the chosen learning rate, {settings}. Each row has one other setting, and as many samples.',
        markdown_table(['setting', 'method', 'accuracy', 'gained, paired'], rows, left=2),
        _said(differences),
    ]
    return text, [_plain(one) for one in differences]


def _right_of(study: Any, task: str) -> Right:
    """Which test samples each student gets right, of the seeds that all have."""
    labels, _ = _labels(study, task)
    seeds = _seeds(study, task)
    right: Right = {}
    for method in ('alone', 'distilled'):
        for name in _names(study, task):
            runs = [study.runs.get((task, method, name.split(', ')[0], seed)) for seed in seeds]
            _add(right, (method, name), [study.found.get(run) for run in runs], labels)
        together = [study.found.get(study.ensembles.get((task, method, seed))) for seed in seeds]
        _add(right, (method, _TOGETHER), together, labels)
    return right


def _add(right: dict[Any, Any], cell: Any, results: Sequence[Any], labels: NDArray[np.int64]) -> None:
    if results and all(result is not None and 'failed' not in result for result in results):
        right[cell] = np.array([np.array(list(result['answers']), np.int64) == labels for result in results])


def _names(study: Any, task: str) -> dict[str, tuple[int, ...]]:
    """The layers of each strategy; those that keep the same are one."""
    kept: dict[tuple[int, ...], list[str]] = {}
    for strategy, layers in study.layers[task].items():
        kept.setdefault(layers, []).append(strategy)
    return {', '.join(strategies): layers for layers, strategies in kept.items()}


def _seeds(study: Any, task: str) -> list[int]:
    """The seeds of which all students were run."""
    done = {seed for other, _, _, seed in study.runs if other == task}
    wanted = [(method, strategy) for method in ('alone', 'distilled') for strategy in study.layers[task]]
    return sorted(seed for seed in done if all((task, *one, seed) in study.runs for one in wanted))


def _labels(study: Any, task: str) -> tuple[NDArray[np.int64], list[int]]:
    parts = study.found[Parts(study.teachers[task].basis)]
    return np.array(parts['labels']), parts['groups']


def _data(task: str, parts: Mapping[str, Any]) -> str:
    first = min(_DEV, len(parts['labels'])) if task == 'sst2' else 0
    others, premises = len(parts['labels']) - first, len(set(parts['groups']))
    return _DATA[task].format(first=first, others=others, premises=premises)


def _teacher(study: Any, task: str) -> str:
    teacher = study.teachers[task]
    right, store = study.found[teacher]['accuracy'], study.found[Stored(teacher)]
    return (
        f' The teacher, fine-tuned in {teacher.basis.teacher_batches} batches of 32{_of(study, task)} samples, has '
        f'{100 * right:.1f} %; its logits for all samples of the students took {store["seconds"]:.0f} s and are '
        f'{bytes_text(store["bytes"])}.'
    )


def _of(study: Any, task: str) -> str:
    samples = study.teachers[task].basis.teacher_samples
    return f' on {samples or study.found[Parts(study.teachers[task].basis)]["sizes"]["train"]:,}'


def _rates(study: Any) -> tuple[list[str], list[list[str]]]:
    rates = sorted({rate for _, rate in study.tuned})
    rows = []
    for cell in dict.fromkeys(cell for cell, _ in study.tuned):
        tried = {rate: study.tuned.get((cell, rate)) for rate in rates}
        said = [f'{100 * one["accuracy"]:.1f}' if one else '' for one in tried.values()]
        rows.append([', '.join((_TITLES[cell[0]], cell[1])), *said])
    return ['held-out accuracy', *(f'{rate:g}' for rate in rates)], rows


def _mean(right: NDArray[np.bool_] | None) -> str:
    if right is None or not right.size:
        return ''
    values = right.mean(1).tolist()
    error = f' ± {100 * statistics.stdev(values) / len(values) ** 0.5:.1f}' if len(values) > 1 else ''
    return f'{100 * statistics.mean(values):.1f}{error}'


def _plain(one: Difference[Any]) -> dict[str, Any]:
    return {key: value if value == value else None for key, value in dataclasses.asdict(one).items()}
