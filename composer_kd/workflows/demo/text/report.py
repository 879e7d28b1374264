"""Reports the results of the demo on texts: a table in the terminal and in Markdown, numbers in JSON, and a plot."""

from __future__ import annotations

import pathlib
import statistics

from matplotlib.figure import Figure
from rich.console import Console

from composer_kd.presentation.plots import COLOURS, INK, canvas, tidy, title
from composer_kd.presentation.roles import ALONE, DISTILLED, TEACHER
from composer_kd.presentation.tables import Table, as_markdown
from composer_kd.presentation.units import count_text, percent, seconds_text
from composer_kd.workflows.demo.report import show, spread_of, write_files
from composer_kd.workflows.demo.results import Entry
from composer_kd.workflows.demo.text.results import TextResults

__all__ = ['in_words', 'write_report']

_COLUMNS = ('model', 'learns from', 'accuracy, %', 'parameters', 'latency')


def write_report(results: TextResults, out: pathlib.Path, console: Console) -> None:
    """Prints the table and a summary, and writes ``results.json``, ``results.md`` and ``results.png``.

    Args:
        results: The results of the demo.
        out: The folder for the files; created if it is missing.
        console: The console to print on.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = [_row(entry) for entry in results.entries]
    sentences = [in_words(results, strategy) for strategy in results.students]
    table = as_markdown(Table.of(_COLUMNS, rows, left=2))
    parts = ['# Distillation of a fine-tuned BERT', f'The task: {results.task}.', table, *sentences, _notes(results)]
    write_files(out, '\n\n'.join(parts) + '\n', _figure(results), results.as_mapping())
    show(console, _COLUMNS, rows, sentences, _notes(results), out)


def in_words(results: TextResults, strategy: str) -> str:
    """Describes how distillation changed the accuracy of a student, for better or worse.

    Args:
        results: The results of the demo.
        strategy: Which layers the student keeps.

    Returns:
        One sentence, with the change in percentage points for each seed.
    """
    alone, distilled = (100 * entry.accuracy for entry in results.students[strategy])
    gains = results.gains(strategy)
    each = ', '.join(f'{100 * gain:+.1f}' for gain in gains)
    layers = ' '.join(map(str, results.layers[strategy]))
    verb = 'took' if statistics.fmean(gains) >= 0 else 'lowered'
    return (
        f'{strategy} (layers {layers}): distillation {verb} the student from {alone:.1f} % to {distilled:.1f} % '
        f'({each} points by seed); the teacher has {100 * results.teacher.accuracy:.1f} %.'
    )


def _row(entry: Entry) -> tuple[str, ...]:
    accuracy = percent(entry.accuracy, entry.standard_error)
    return (entry.name, entry.learns_from, accuracy, count_text(entry.parameters), seconds_text(entry.latency))


def _notes(results: TextResults) -> str:
    spread = spread_of(results.entries[-1])
    return (
        f'Accuracy on {results.settings.n_test:,} test texts after the last epoch, {spread}. Students alone and '
        'distilled: the same layers of the teacher, labels and number of batches. Latency: median of one text on one '
        f'CPU thread. {seconds_text(results.seconds)} in all.'
    )


def _figure(results: TextResults) -> Figure:
    with canvas(8.5, 0.9 + 0.5 * len(results.entries)) as figure:
        axes = figure.subplots()
        roles = [TEACHER, *(role for _ in results.students for role in (ALONE, DISTILLED))]
        for y, (entry, role) in enumerate(zip(results.entries, roles)):
            values = [100 * value for value in entry.accuracies]
            axes.barh(y, 100 * entry.accuracy, height=0.62, color=COLOURS[role], alpha=0.85, zorder=2)
            axes.scatter(values, [y] * len(values), s=18, zorder=5, facecolor='white', edgecolor=INK, linewidth=0.8)
            label = f'{percent(entry.accuracy)} %'
            axes.annotate(label, (max(values), y), (8, 0), textcoords='offset points', va='center', fontweight='bold')
        labels = [f'{entry.name}, {count_text(entry.parameters)} parameters' for entry in results.entries]
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlim(0, 112)
        axes.set_xlabel('test accuracy, %; circles are seeds')
        tidy(axes)
        title(
            figure, f'Half of a BERT with {results.settings.n_labels} labels, alone and with the whole as its teacher'
        )
    return figure
