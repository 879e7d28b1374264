"""Reports the demo's results: a table in the terminal and in Markdown, the numbers in JSON, and a plot."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Shown

from composer_kd.presentation.files import write_file
from composer_kd.presentation.plots import COLOURS, INK, canvas, heading, png, tidy, title
from composer_kd.presentation.roles import ALONE, DISTILLED, TEACHER
from composer_kd.presentation.tables import Table, as_markdown
from composer_kd.presentation.units import bytes_text, number_text, percent, seconds_text
from composer_kd.workflows.demo.results import Entry, Results

__all__ = ['NUMBERS_FILE', 'in_words', 'show', 'spread_of', 'write_files', 'write_report']

NUMBERS_FILE = 'results.json'

_COLUMNS = ('model', 'learns from', 'accuracy, %', 'parameters', 'size', 'latency')


def write_report(results: Results, out: pathlib.Path, console: Console) -> None:
    """Prints the table and a summary, and writes ``results.json``, ``results.md`` and ``results.png``.

    Args:
        results: The results of the demo.
        out: The folder for the files; created if it is missing.
        console: The console to print on.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = [_row(entry) for entry in results.entries]
    sentence = in_words(results)
    write_files(out, _markdown(results, rows, sentence), _figure(results), results.as_mapping())
    show(console, _COLUMNS, rows, [sentence], _notes(results), out)


def write_files(out: pathlib.Path, markdown: str, figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Writes ``results.md``, ``results.png`` and ``results.json`` of a demo.

    Args:
        out: The folder.
        markdown: The report.
        figure: The plot.
        numbers: The results.
    """
    write_file(out / 'results.md', markdown)
    write_file(out / 'results.png', png(figure))
    # Written last, so that its presence means that all files are complete.
    write_file(out / NUMBERS_FILE, json.dumps(numbers, indent=2) + '\n')


def show(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    sentences: Sequence[str],
    notes: str,
    out: pathlib.Path,
) -> None:
    """Prints the results of a demo.

    Args:
        console: The console to print on.
        columns: The names of the columns, the first two of texts.
        rows: The table.
        sentences: What it says.
        notes: How it was measured.
        out: The folder of the files.
    """
    table = Shown(box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify='left' if number < 2 else 'right', no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table, highlight=False)
    for sentence in sentences:
        console.print(sentence, style='bold', highlight=False)
    console.print(f'\n{notes}\n', style='dim', highlight=False)
    console.print(f'Plot, table and numbers: {out}/results.png, .md, .json', highlight=False)


def in_words(results: Results) -> str:
    """Describes how distillation changed the student's accuracy, for better or worse.

    Args:
        results: The results of the demo.

    Returns:
        One sentence, with the change in percentage points and its confidence interval.
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
    accuracy = percent(entry.accuracy, entry.standard_error)
    costs = (number_text(entry.parameters), bytes_text(entry.size), seconds_text(entry.latency))
    return (entry.name, entry.learns_from, accuracy, *costs)


def _notes(results: Results) -> str:
    return (
        f'Accuracy on {results.samples[1]} test digits after the last epoch, {spread_of(results.alone)}. Both '
        'students: same initial weights, labels and number of batches. Size: the state dict on disk. Latency: median '
        f'of one image on one CPU thread. {seconds_text(results.seconds)} in all.'
    )


def spread_of(entry: Entry) -> str:
    """Says what stands behind the sign ± of a student."""
    runs = len(entry.curves)
    return f'mean ± standard error over {runs} seeds (one teacher)' if runs > 1 else 'one seed'


def _markdown(results: Results, rows: list[tuple[str, ...]], sentence: str) -> str:
    table = as_markdown(Table.of(_COLUMNS, rows, left=2))
    return '\n\n'.join(['# Distillation on handwritten digits', sentence, table, _notes(results)]) + '\n'


def _figure(results: Results) -> Figure:
    with canvas(10.5, 4.6) as figure:
        left, right = figure.subplots(1, 2, gridspec_kw={'width_ratios': [1.0, 1.5]})
        _plot_accuracies(left, results)
        _plot_curves(right, results)
        title(figure, f'A small student on {results.settings.n_labels} labelled digits, alone and with a teacher')
    return figure


def _plot_accuracies(axes: Any, results: Results) -> None:
    for x, (entry, colour) in enumerate(zip(results.entries, COLOURS.values())):
        values = [100 * value for value in entry.accuracies]
        error = None if entry.standard_error is None else 100 * entry.standard_error
        axes.bar(x, 100 * entry.accuracy, width=0.62, color=colour, alpha=0.85, zorder=2)
        if error is not None:
            axes.errorbar(x, 100 * entry.accuracy, error, color=INK, capsize=5, linewidth=1.3, zorder=4)
            circles = {'facecolor': 'white', 'edgecolor': INK, 'linewidth': 0.8}
            axes.scatter([x + 0.18] * len(values), values, s=18, zorder=5, **circles)
        top = max([100 * entry.accuracy + (error or 0), *values])
        axes.annotate(
            f'{percent(entry.accuracy)} %',
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
    heading(axes, 'After the last epoch', 'mean ± standard error; circles are seeds')
    tidy(axes)


def _plot_curves(axes: Any, results: Results) -> None:
    level = 100 * results.teacher.accuracy
    axes.axhline(level, color=COLOURS[TEACHER], linestyle='--', linewidth=1.3)
    axes.annotate(
        TEACHER,
        (0.99, level),
        (0, 4),
        xycoords=('axes fraction', 'data'),
        textcoords='offset points',
        color=COLOURS[TEACHER],
        ha='right',
    )
    for entry, colour in zip(results.entries[1:], (COLOURS[ALONE], COLOURS[DISTILLED])):
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
    heading(axes, 'During training', 'thick lines are means, thin lines seeds')
    tidy(axes)
