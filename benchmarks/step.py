"""Times a training step against its lower bounds: a plain Composer step, and that plus the teacher's forward pass.

All variants of a workload live in one process, start from the same weights, see the same batches and take turns in
shuffled rounds; ratios and differences are taken inside a round. Writes ``step.md`` and ``step.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.report import markdown, print_report
from benchmarks.timing import Mark, Spread, environment, interleave
from benchmarks.variants import build, check_agreement
from benchmarks.workloads import WORKLOADS, Workload

__all__ = ['main', 'measure']

WARM_UP = 2  # steps, in which the losses are compared: as started, and after an update
TARGETS = {'G1': 5.0, 'G2': 60.0, 'G3 cnn': 1.03, 'G3 bert': 1.08}


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One number per round, made of the variants' times.

    Attributes:
        name: What it is.
        unit: ``ratio`` or ``us``.
        of: The number of a round, from the seconds of a step by variant.
        needs: The variants without which there is no such number.
        target: The largest value that meets the target; ``None`` where there is none.
    """

    name: str
    unit: str
    of: Callable[[dict[str, float]], float]
    needs: tuple[str, ...] = ()
    target: float | None = None


def quantities(workload: Workload) -> list[Quantity]:
    """What is computed for a workload."""
    if workload.microseconds:
        return [
            Quantity('G1: composer_kd outside its window - student', 'us',
                     lambda t: 1e6 * (t['composer_kd outside'] - t['student']), target=TARGETS['G1']),
            Quantity('G2: (composer_kd - student) - (loop distilling - loop)', 'us',
                     lambda t: 1e6 * (t['composer_kd'] - t['student'] - t['loop distilling'] + t['loop']),
                     target=TARGETS['G2']),
            Quantity('the same for naive', 'us',
                     lambda t: 1e6 * (t['naive'] - t['student'] - t['loop distilling'] + t['loop'])),
            Quantity('composer_kd - bare', 'us', lambda t: 1e6 * (t['composer_kd'] - t['bare'])),
            Quantity('three losses - student (what no such plug-in avoids)', 'us',
                     lambda t: 1e6 * (t['three losses'] - t['student'])),
            Quantity('student again - student (0 but for noise)', 'us',
                     lambda t: 1e6 * (t['student again'] - t['student'])),
            Quantity('(torchdistill - loop) - (loop distilling - loop)', 'us',
                     lambda t: 1e6 * (t['torchdistill'] - t['loop distilling']), ('torchdistill',)),
        ]  # fmt: skip
    return [
        Quantity('G3: composer_kd / (student + teacher)', 'ratio',
                 lambda t: t['composer_kd'] / (t['student'] + t['teacher']), target=TARGETS.get(f'G3 {workload.name}')),
        Quantity('naive / (student + teacher)', 'ratio', lambda t: t['naive'] / (t['student'] + t['teacher'])),
        Quantity('composer_kd / naive', 'ratio', lambda t: t['composer_kd'] / t['naive']),
        Quantity('composer_kd outside its window / student', 'ratio',
                 lambda t: t['composer_kd outside'] / t['student']),
        Quantity('torchdistill / (loop + teacher)', 'ratio',
                 lambda t: t['torchdistill'] / (t['loop'] + t['teacher']), ('torchdistill',)),
        Quantity('composer_kd / torchdistill', 'ratio', lambda t: t['composer_kd'] / t['torchdistill'],
                 ('torchdistill',)),
    ]  # fmt: skip


def measure(
    workload: Workload, threads: int, rounds: int, steps: int, progress: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Measures one workload.

    Args:
        workload: What to run.
        threads: How many threads torch may use.
        rounds: How often each variant has its turn.
        steps: Steps in a turn that count.
        progress: Called after each round.

    Returns:
        Milliseconds by variant and the quantities, each with median and quartiles; ready for JSON.

    Raises:
        DisagreementError: If two variants that should do the same work had other losses.
    """
    torch.set_num_threads(threads)
    runs = build(workload)
    try:
        for run in runs.values():
            run.steps(WARM_UP)
        check_agreement({name: runs[name].losses for name in ('composer_kd', 'naive', 'torchdistill') if name in runs})
        check_agreement({name: runs[name].losses for name in ('student', 'composer_kd outside', 'loop')})
        found = interleave(runs, rounds, steps, threads, progress)
    finally:
        for run in runs.values():
            run.close()
    return {
        'workload': workload.name,
        'about': workload.about,
        'threads': threads,
        'rounds': rounds,
        'steps': steps,
        'variants': {name: _milliseconds(marks) for name, marks in found.items()},
        'quantities': [_evaluate(quantity, found) for quantity in quantities(workload)
                       if all(name in found for name in quantity.needs)],
    }  # fmt: skip


def _milliseconds(marks: list[Mark]) -> dict[str, Any]:
    wall, cpu = ([1e3 * mark[clock] for mark in marks] for clock in (0, 1))
    return {
        'wall': dataclasses.asdict(Spread.of(wall)),
        'cpu': dataclasses.asdict(Spread.of(cpu)),
        'rounds': [round(value, 4) for value in wall],
    }


def _evaluate(quantity: Quantity, found: dict[str, list[Mark]]) -> dict[str, Any]:
    """The quantity in each round, on the wall (which is held to the target) and of the processor."""
    result: dict[str, Any] = {'name': quantity.name, 'unit': quantity.unit, 'target': quantity.target}
    for clock, label in enumerate(('wall', 'cpu')):
        per_round = [
            quantity.of({name: marks[clock] for name, marks in zip(found, row)}) for row in zip(*found.values())
        ]
        result[label] = dataclasses.asdict(Spread.of(per_round))
    if quantity.target is not None:
        result['met'] = result['wall']['median'] <= quantity.target
    return result


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workloads', nargs='+', default=list(WORKLOADS), choices=list(WORKLOADS), metavar='NAME',
                        help=f'which of {", ".join(WORKLOADS)} (default: all)')  # fmt: skip
    parser.add_argument('--threads', nargs='+', type=int, default=[1, 2], metavar='N',
                        help='thread counts; targets are judged on the first (default: 1 2)')  # fmt: skip
    parser.add_argument('--rounds', type=int, metavar='N', help='rounds (default: as the workload needs, at least 9)')
    parser.add_argument('--steps', type=int, metavar='N', help='measured steps in a turn (default: as it needs)')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).parent / 'results', metavar='DIR',
                        help='where step.md and step.json go (default: benchmarks/results)')  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes.

    Args:
        arguments: Of the command line; ``None`` for the process's own.

    Returns:
        What ``step.json`` holds.
    """
    options = _parse(arguments)
    console = Console()
    given = sys.argv[1:] if arguments is None else arguments
    measured: list[dict[str, Any]] = []
    report = {
        'command': ' '.join([*_memory_settings(), 'python', 'benchmarks/step.py', *_without_out(given)]),
        'environment': environment(),
        'measured': measured,
    }
    columns = (TextColumn('{task.description}'), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for threads in options.threads:
            for name in options.workloads:
                workload = WORKLOADS[name]
                rounds, steps = options.rounds or workload.rounds, options.steps or workload.steps
                if options.rounds is None and threads != options.threads[0]:
                    rounds = 9  # not judged; two threads on busy cores wait for each other
                bar = progress.add_task(f'{name}, {threads} thread(s): rounds', total=rounds)
                if not console.is_terminal:  # where bars do not move
                    console.print(f'{name}, {threads} thread(s) ...')
                measured.append(measure(workload, threads, rounds, steps, lambda b=bar: progress.advance(b)))
                _write(report, options.out)  # each time, so that an interrupted run leaves what it has found
    print_report(report, console)
    return report


def _write(report: dict[str, Any], out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / 'step.json').write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
    (out / 'step.md').write_text(markdown(report), encoding='utf-8')


def _memory_settings() -> list[str]:
    """glibc's settings in the environment, which belong to the command as much as its arguments do."""
    return [f'{name}={value}' for name, value in sorted(os.environ.items()) if name.startswith('MALLOC_')]


def _without_out(given: list[str]) -> list[str]:
    """The arguments without ``--out DIR``, whose path is nobody's business."""
    kept = [argument for argument in given if not argument.startswith('--out=')]
    if '--out' in kept:
        at = kept.index('--out')
        del kept[at : at + 2]
    return kept


if __name__ == '__main__':
    # Composer and transformers talk about settings that are meant here.
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    main()
