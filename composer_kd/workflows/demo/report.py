"""Tells what the demo found: a table in the terminal, the same in Markdown, numbers in JSON, and a plot."""

from __future__ import annotations

import json
import pathlib
import statistics
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from composer_kd.workflows.demo.results import Entry, Results

__all__ = ['NUMBERS_FILE', 'in_words', 'write_report']

NUMBERS_FILE = 'results.json'

_COLUMNS = ('model', 'learns from', 'accuracy %', 'parameters', 'kB', 'ms')
# Teacher, alone, distilled: grey, orange, blue, told apart by all eyes.
_COLOURS = ('#6b7280', '#d97706', '#2563eb')


def write_report(results: Results, out: pathlib.Path, console: Console) -> None:
    """Prints the table and the finding, and writes ``results.json``, ``results.md`` and ``results.png``.

    Args:
        results: What the demo found.
        out: The folder, made if need be.
        console: Where to print.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = [_row(entry) for entry in results.entries]
    sentence = in_words(results)
    (out / 'results.md').write_text(_markdown(results, rows, sentence), encoding='utf-8')
    _plot(results, out / 'results.png')
    # Last: where it is, all is.
    (out / NUMBERS_FILE).write_text(json.dumps(results.as_mapping(), indent=2) + '\n', encoding='utf-8')

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in _COLUMNS:
        table.add_column(heading, justify='left' if heading in _COLUMNS[:2] else 'right', no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table, highlight=False)
    console.print(sentence, style='bold', highlight=False)
    console.print(f'\n{_notes(results)}\n', style='dim', highlight=False)
    console.print(f'Plot, table and numbers: {out}/results.png, .md, .json', highlight=False)


def in_words(results: Results) -> str:
    """Says what distillation changed, better or worse.

    Args:
        results: What the demo found.

    Returns:
        One sentence, computed from the numbers.
    """
    alone, distilled = 100 * results.alone.accuracy, 100 * results.distilled.accuracy
    gain = 100 * statistics.fmean(results.gains)
    interval = results.gain_interval
    if interval is None:
        certainty = 'a single seed, so take it with caution'
    else:
        low, high = (100 * end for end in interval)
        certainty = f'95 % interval {low:+.1f} to {high:+.1f} over {len(results.gains)} seeds'
        certainty += '' if low > 0 or high < 0 else ', so no clear difference'
    verb = 'took' if gain >= 0 else 'lowered'
    gap = 100 * results.teacher.accuracy - alone
    share = f', {100 * gain / gap:.0f} % of the way to the teacher' if 0 < gain < gap else ''
    share = ', as good as the teacher' if gain >= gap > 0 else share
    smaller = results.teacher.parameters / max(1, results.distilled.parameters)
    return (
        f'Distillation {verb} the student from {alone:.1f} % to {distilled:.1f} % ({gain:+.1f} points; '
        f'{certainty}){share}, with {smaller:.0f} times fewer parameters than the teacher.'
    )


def _row(entry: Entry) -> tuple[str, ...]:
    error = '' if entry.standard_error is None else f' ± {100 * entry.standard_error:.1f}'
    accuracy = f'{100 * entry.accuracy:.1f}{error}'
    size = (f'{entry.parameters:,}', f'{entry.size / 1000:,.0f}', f'{1000 * entry.latency:.2f}')
    return (entry.name, entry.learns_from, accuracy, *size)


def _notes(results: Results) -> str:
    runs = len(results.alone.curves)
    spread = f'mean ± standard error over {runs} seeds (one teacher)' if runs > 1 else 'one seed'
    return (
        f'Accuracy on {results.samples[1]} test digits after the last epoch, {spread}. Both students: '
        f'same initial weights, labels and number of batches. kB: the state dict on disk. ms: median latency '
        f'of one image on one CPU thread. {results.seconds:.0f} s in all.'
    )


def _markdown(results: Results, rows: list[tuple[str, ...]], sentence: str) -> str:
    lines = ['| ' + ' | '.join(_COLUMNS) + ' |', '|---|---|---:|---:|---:|---:|']
    lines += ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join(['# Distillation on handwritten digits', '', sentence, '', *lines, '', _notes(results), ''])


def _plot(results: Results, file: pathlib.Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The object interface leaves the caller's matplotlib backend alone.
    figure = Figure(figsize=(10.5, 4.6), dpi=150, layout='constrained')
    FigureCanvasAgg(figure)
    grid = {'width_ratios': [1.0, 1.5]}
    left, right = figure.subplots(1, 2, gridspec_kw=grid)
    _plot_accuracies(left, results)
    _plot_curves(right, results)
    title = f'A small student on {results.settings.n_labels} labelled digits, alone and with a teacher'
    figure.suptitle(title, fontsize=13, fontweight='bold', x=0.01, ha='left')
    figure.savefig(file)


def _plot_accuracies(axes: Any, results: Results) -> None:
    for x, (entry, colour) in enumerate(zip(results.entries, _COLOURS)):
        values = [100 * value for value in entry.accuracies]
        error = None if entry.standard_error is None else 100 * entry.standard_error
        axes.bar(x, 100 * entry.accuracy, width=0.62, color=colour, alpha=0.85, zorder=2)
        if error is not None:
            axes.errorbar(x, 100 * entry.accuracy, error, color='black', capsize=5, linewidth=1.3, zorder=4)
            circles = {'facecolor': 'white', 'edgecolor': 'black', 'linewidth': 0.8}
            axes.scatter([x + 0.18] * len(values), values, s=18, zorder=5, **circles)
        top = max([100 * entry.accuracy + (error or 0), *values])
        axes.annotate(
            f'{100 * entry.accuracy:.1f} %',
            (x, top),
            (0, 5),
            textcoords='offset points',
            ha='center',
            fontweight='bold',
        )
    axes.set_ylim(0, 108)
    labels = [f'{entry.name}\n{entry.parameters:,}\nparameters' for entry in results.entries]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel('test accuracy, %')
    axes.set_title('last epoch: mean ± standard error, circles are seeds', fontsize=9.5, loc='left', color='#374151')
    _tidy(axes)


def _plot_curves(axes: Any, results: Results) -> None:
    level = 100 * results.teacher.accuracy
    axes.axhline(level, color=_COLOURS[0], linestyle='--', linewidth=1.3)
    axes.annotate(
        'teacher',
        (0.99, level),
        (0, 4),
        xycoords=('axes fraction', 'data'),
        textcoords='offset points',
        color=_COLOURS[0],
        ha='right',
    )
    for entry, colour in zip(results.entries[1:], _COLOURS[1:]):
        epochs = range(1, len(entry.curves[0]) + 1)
        mean = [100 * statistics.fmean(values) for values in zip(*entry.curves)]
        for curve in entry.curves:
            axes.plot(epochs, [100 * value for value in curve], color=colour, alpha=0.3, linewidth=1)
        axes.plot(
            epochs,
            mean,
            color=colour,
            linewidth=2.4,
            label=entry.name,
            marker='o' if len(mean) == 1 else None,
        )
    axes.set_xlabel(f'epoch ({results.samples[0]:,} images each)')
    axes.set_ylabel('test accuracy, %')
    axes.set_ylim(0, 108)
    axes.legend(loc='lower right', frameon=False)
    axes.set_xlim(left=0)
    axes.set_title(
        'during training: thick lines are means, thin lines seeds', fontsize=9.5, loc='left', color='#374151'
    )
    _tidy(axes)


def _tidy(axes: Any) -> None:
    axes.grid(axis='y', color='#e5e7eb', linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
