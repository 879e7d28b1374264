"""Draws the figures of the method cards (docs/methods) from what ``knowledge.py`` and ``schemes.py`` measured.

    python benchmarks/cards.py          # writes docs/methods/images/*.png; trains nothing

Each figure shows what a method gained above the student alone, in points of test accuracy: the difference of runs of
the same seed, as mean and standard error over the seeds.
"""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from composer_kd.presentation.files import write_file
from composer_kd.presentation.plots import BLUE, MUTED, ORANGE, canvas, png, tidy, title

__all__ = ['FIGURES', 'draw', 'gains']

ROOT = pathlib.Path(__file__).parents[1]
RESULTS, IMAGES = ROOT / 'benchmarks/results', ROOT / 'docs/methods/images'

PAIRS = {'cnn_to_cnn': 'CNN teaches CNN', 'cnn_to_rnn': 'CNN teaches RNN', 'rnn_to_cnn': 'RNN teaches CNN'}
KNOWLEDGE = {'all labels': (BLUE, 'o'), '2,000 labels': (ORANGE, 's')}
SCHEMES = {'all': (BLUE, 'o', 'all labels'), 'few': (ORANGE, 's', '2,000 labels')}

FIGURES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    'logits': (
        'knowledge',
        {
            'kd_t1': 'KL, T=1',
            'kd_t2': 'KL, T=2',
            'kd_t4': 'KL, T=4',
            'kd_t8': 'KL, T=8',
            'mse': 'mse',
            'cosine': 'cosine',
        },
    ),
    'logits_by_part': (
        'knowledge',
        {'kd_t4': 'KL, T=4', 'dkd': 'DKD', 'dist': 'DIST', 'standardised': 'standardised KL'},
    ),
    'features': ('knowledge', {'hint': 'hint', 'at': 'attention transfer', 'kd_t4': 'KL, T=4'}),
    'relations': ('knowledge', {'sp': 'SP', 'rkd': 'RKD', 'pkt': 'PKT', 'cc': 'CC', 'kd_t4': 'KL, T=4'}),
    'learned': ('knowledge', {'crd': 'CRD', 'vid': 'VID', 'reviewkd': 'ReviewKD', 'kd_t4': 'KL, T=4'}),
    'stored_teachers': (
        'schemes',
        {'dense': 'all logits, KL', 'topk': 'top 4, KL', 'sampled': '12 draws, KL', 'dist': 'all logits, DIST'},
    ),
    'no_teacher': (
        'schemes',
        {'teacher_free': 'virtual teacher', 'ema': 'average of weights', 'snapshot': 'last epoch'},
    ),
}
"""For each figure, the study it is of, and its methods with their names."""


def gains(runs: Sequence[Mapping[str, Any]], method: str, **where: str) -> list[float]:
    """Returns what a method gained above the student alone, in points, for each seed that both have.

    Args:
        runs: The runs of a study.
        method: The method's key.
        where: Further keys that the runs must have, such as ``setting='all labels'``.

    Returns:
        A difference for each seed; none where the method was not run.

    Example:
        >>> both = [{'method': 'alone', 'seed': 1, 'accuracy': 0.5}, {'method': 'mse', 'seed': 1, 'accuracy': 0.75}]
        >>> gains(both, 'mse'), gains(both, 'dkd')
        ([25.0], [])
    """
    found = [run for run in runs if all(run[key] == value for key, value in where.items())]
    alone = {run['seed']: run['accuracy'] for run in found if run['method'] == 'alone'}
    taught = {run['seed']: run['accuracy'] for run in found if run['method'] == method}
    return [100 * (taught[seed] - alone[seed]) for seed in sorted(alone.keys() & taught.keys())]


def draw(name: str) -> bytes:
    """Draws one figure.

    Args:
        name: A key of ``FIGURES``.

    Returns:
        The content of a PNG file.
    """
    study, methods = FIGURES[name]
    runs = json.loads((RESULTS / f'{study}.json').read_text(encoding='utf-8'))['runs']
    if study == 'knowledge':
        what = 'CIFAR-10 at 16x16, 600 batches of 64'
        panels = {
            text: {label: (look, {'pair': pair, 'setting': label}) for label, look in KNOWLEDGE.items()}
            for pair, text in PAIRS.items()
        }
    else:
        what = 'CIFAR-10, 30 epochs, a shallow CNN'
        panels = {'': {label: ((colour, mark), {'setting': key}) for key, (colour, mark, label) in SCHEMES.items()}}
    with canvas(3.1 * len(panels) + 1.4, 0.9 + 0.42 * len(methods) + 0.5) as figure:
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for panel, (text, series) in zip(axes, panels.items()):
            _panel(panel, runs, methods, series)
            panel.set_title(text)
            panel.set_xlabel('points above the student alone')
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc='outside lower right', ncols=len(labels), frameon=False)
        title(figure, what)
    return png(figure)


def _panel(
    panel: Any, runs: Sequence[Mapping[str, Any]], methods: Mapping[str, str], series: Mapping[str, Any]
) -> None:
    for number, (label, ((colour, mark), where)) in enumerate(series.items()):
        points = [(place, gains(runs, method, **where)) for place, method in enumerate(methods)]
        known = [(place, values) for place, values in points if values]
        means = [statistics.fmean(values) for _, values in known]
        errors = [statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0 for _, values in known]
        places = [place + 0.24 * (number - 0.5) for place, _ in known]
        panel.errorbar(means, places, xerr=errors, fmt=mark, color=colour, capsize=3, markersize=5, label=label)
    for place, method in enumerate(methods):
        if not any(gains(runs, method, **where) for _, where in series.values()):
            panel.annotate('not defined', (0, place), (4, 0), textcoords='offset points', color=MUTED, va='center')
    panel.axvline(0, color=MUTED, linewidth=1)
    panel.set_yticks(range(len(methods)), list(methods.values()))
    panel.set_ylim(len(methods) - 0.5, -0.5)
    tidy(panel, 'x')


def main() -> None:
    """Writes all figures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        write_file(IMAGES / f'{name}.png', draw(name))


if __name__ == '__main__':
    main()
