"""What was measured, as tables: in the terminal and in Markdown."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Shown

from composer_kd.presentation.markdown import Markdown
from composer_kd.presentation.tables import Table, as_markdown

__all__ = ['markdown', 'markdown_table', 'print_report', 'print_table']

_ABOUT = {
    'student': 'a plain Composer step, no algorithm',
    'student again': 'the same once more: how far two equal things come out apart',
    'teacher': "the teacher's forward pass alone: eager, float32, no_grad, eval",
    'composer_kd': 'a Composer step with `Distillation(teacher, KLDivergence(4))`',
    'composer_kd outside': 'the same, with a window that has not opened yet',
    'naive': 'a Composer step with an algorithm of a dozen lines: answers cloned, stacked, averaged, `F.kl_div`',
    'bare': 'a Composer step with the shortest algorithm of the same arithmetic: one teacher, no checks',
    'three losses': 'a Composer step with an algorithm that only reports its loss as three: Composer logs each',
    'loop': 'the plain step as a hand-written loop, without Composer',
    'loop distilling': "the distilling step as such a loop, with composer_kd's loss function",
    'torchdistill': "torchdistill's DistillationBox with its KDLoss, in a loop of its own",
}
_METHOD = """\
One process; all variants of a workload start from the same weights, see the same batches (held in memory) and take
turns in shuffled rounds. Of a turn's measured steps the median counts (tiny: after one step that does not count). In
Composer a step lasts from the end of one batch to the end of the next, with all events between. Ratios and differences
are taken inside a round; given are their median and, in brackets, the quartiles over the rounds. Loggers and progress
bars are off, Python's garbage collector rests during a round. Targets are judged on the wall clock, with the first
number of threads. Before anything is timed, the losses of composer_kd, naive and torchdistill are found equal to
1e-4, as started and after an update.

The bound of composer_kd is a plain Composer step plus the teacher's forward pass. torchdistill does not run in
Composer: it pays for no events, no copy of the batch and no logging, so it stands beside a loop that doesn't either
(`loop`). It gets the bare modules and, for tokens, `(N, V)` rows; it computes the labels' cross-entropy itself, reads
its total loss once per step, and keeps a single number where composer_kd reports three.

On tiny, `loop distilling` - `loop` is what the teacher's forward pass and the loss cost where they run hot in the
caches, so G2 also holds what the same arithmetic costs more between Composer's events; `composer_kd - bare` doesn't."""


def markdown(report: dict[str, Any]) -> str:
    """The whole report."""
    facts = ', '.join(f'{key} {value}' for key, value in report['environment'].items())
    parts = ['# A training step against its bounds', f'`{report["command"]}`', facts, _METHOD, '## Targets',
             markdown_table(*_targets(report))]  # fmt: skip
    used = []
    for measured in report['measured']:
        parts += [f'## {_title(measured)}', measured['about'] + '.']
        parts += [markdown_table(*_times(measured)), markdown_table(*_quantities(measured))]
        used += [name for name in measured['variants'] if name not in used]
    parts += ['## Variants', '\n'.join(f'- **{name}**: {text}' for name, text in _ABOUT.items() if name in used)]
    return '\n\n'.join(parts) + '\n'


def print_report(report: dict[str, Any], console: Console) -> None:
    """The tables, for the terminal."""
    for measured in report['measured']:
        console.print(f'\n{_title(measured)}: {measured["about"]}', style='bold', highlight=False)
        print_table(*_times(measured), console)
        print_table(*_quantities(measured), console)
    console.print('\nTargets', style='bold')
    print_table(*_targets(report), console)


def markdown_table(columns: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A Markdown table of cells in Markdown, the first columns to the left and the others to the right."""
    cells = [[Markdown(text) for text in row] for row in rows]
    return as_markdown(Table.of([Markdown(column) for column in columns], cells, left))


def print_table(columns: list[str], rows: list[list[str]], console: Console) -> None:
    """The same table for the terminal."""
    table = Shown(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify='right' if index else 'left')
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)


def _title(measured: dict[str, Any]) -> str:
    threads = f'{measured["threads"]} thread' + ('s' if measured['threads'] > 1 else '')
    return f'{measured["workload"]}, {threads}, {measured["rounds"]} rounds of {measured["steps"]} steps'


def _times(measured: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [[name, _spread(spreads['wall'], 'ms'), _spread(spreads['cpu'], 'ms')]
            for name, spreads in measured['variants'].items()]  # fmt: skip
    return ['variant', 'ms per step, wall', 'ms per step, processor'], rows


def _quantities(measured: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [[found['name'], _spread(found['wall'], found['unit']), _spread(found['cpu'], found['unit'])]
            for found in measured['quantities']]  # fmt: skip
    return ['compared within each round', 'wall', 'processor'], rows


def _targets(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    gate = report['measured'][0]['threads']
    rows = [
        [f'{found["name"]} ({measured["workload"]})', f'<= {_number(found["target"], found["unit"])}',
         _spread(found['wall'], found['unit']), 'met' if found['met'] else 'not met']
        for measured in report['measured'] if measured['threads'] == gate
        for found in measured['quantities'] if found['target'] is not None
    ]  # fmt: skip
    return ['target', 'wanted', 'found', ''], rows


def _spread(spread: dict[str, float], unit: str) -> str:
    bare = unit if unit != 'us' else ''
    return (f'{_number(spread["median"], unit)} '
            f'[{_number(spread["low"], bare)}, {_number(spread["high"], bare)}]')  # fmt: skip


def _number(value: float, unit: str) -> str:
    if unit == 'us':
        return f'{value:.1f} us'
    return f'{value:.1f}' if unit == '' else f'{value:.3f}'
