"""Times the distillation loss, forward and backward, against plain expressions. Writes ``losses.md`` and ``.json``.

* ``stacked``: the teacher's logits cloned, stacked and averaged, then ``F.kl_div``, as naive plug-ins do;
* ``kl_div``: ``F.log_softmax`` and ``F.kl_div(reduction='batchmean') * T^2``, the usual expression;
* ``plain``: ``kl_divergence`` held to the expression that it uses below ``FUSED_FROM`` elements;
* ``fused``: ``kl_divergence`` held to the fused pass that it uses from there on.

The last two show where ``composer_kd/losses/_fused.py: FUSED_FROM`` should lie on this machine. A second table has the
other losses of the same kind, at the two sizes that have targets, beside ``stacked`` and ``kl_div``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.report import markdown_table, print_table
from benchmarks.timing import Mark, Spread, environment, interleave
from composer_kd import kl_divergence, losses
from composer_kd.losses import kl

__all__ = ['main', 'measure']

TEMPERATURE = 4.0
TARGETS = {('stacked', (2048, 8192)): 0.15, ('kl_div', (128, 100)): 1.0}
SIZES = (
    (32, 10), (128, 100), (256, 100), (512, 100), (128, 1000), (512, 1000), (64, 8192), (256, 8192), (2048, 8192),
)  # fmt: skip
KIN_ROUNDS = 5
TURN = 0.02  # seconds that the loss should run in a turn


def stacked(student: Tensor, teacher: Tensor) -> Tensor:
    """What a naive plug-in computes for a list of one teacher."""
    return kl_div(student, torch.stack([teacher.clone()]).mean(dim=0))


def kl_div(student: Tensor, teacher: Tensor) -> Tensor:
    """The usual expression."""
    log_p, q = F.log_softmax(student / TEMPERATURE, dim=-1), F.softmax(teacher / TEMPERATURE, dim=-1)
    return F.kl_div(log_p, q, reduction='batchmean') * TEMPERATURE**2


@contextmanager
def fused_from(elements: float) -> Iterator[None]:
    """Makes ``kl_divergence`` take the fused pass from another size on: the sweep forces both ways at each size."""
    before, kl.FUSED_FROM = kl.FUSED_FROM, elements  # type: ignore[assignment]
    try:
        yield
    finally:
        kl.FUSED_FROM = before


def forced(elements: float, student: Tensor, teacher: Tensor) -> Tensor:
    """``kl_divergence`` with another threshold."""
    with fused_from(elements):
        return kl_divergence(student, teacher, TEMPERATURE)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'kl_divergence': lambda student, teacher: kl_divergence(student, teacher, TEMPERATURE),
    'stacked': stacked,
    'kl_div': kl_div,
    'plain': functools.partial(forced, float('inf')),
    'fused': functools.partial(forced, 0),
}


def kin(rows: int, classes: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The losses that are made like ``kl_divergence``, and the two plain expressions to hold them to."""
    labels = torch.randint(classes, (rows,))
    standardized = losses.LogitStandardization(losses.KLDivergence(TEMPERATURE))
    return {
        'stacked': stacked,
        'kl_div': kl_div,
        'reverse_kl': lambda student, teacher: losses.reverse_kl(student, teacher, TEMPERATURE),
        'generalized_jsd': lambda student, teacher: losses.generalized_jsd(student, teacher, 0.5, TEMPERATURE),
        'skewed_kl': lambda student, teacher: losses.skewed_kl(student, teacher, 0.1, TEMPERATURE),
        'skewed_reverse_kl': lambda student, teacher: losses.skewed_reverse_kl(student, teacher, 0.1, TEMPERATURE),
        'alpha_beta_divergence': lambda s, t: losses.alpha_beta_divergence(s, t, 0.2, 0.7, TEMPERATURE),
        'adaptive_kl': lambda student, teacher: losses.adaptive_kl(student, teacher, 0.5, TEMPERATURE),
        'total_variation': lambda student, teacher: losses.total_variation(student, teacher, TEMPERATURE),
        'soft_cross_entropy': lambda student, teacher: losses.soft_cross_entropy(student, teacher, TEMPERATURE),
        'dkd': lambda student, teacher: losses.dkd(student, teacher, labels),
        'nkd': lambda student, teacher: losses.nkd(student, teacher, labels),
        'LogitStandardization': standardized,
    }


class LossRun:
    """One loss at one size, forward and backward."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> None:
        self._loss, self._student, self._teacher = loss, student, teacher
        self.losses: list[float] = []

    def once(self) -> float:
        """One forward and backward pass; the loss."""
        self._student.grad = None
        value = self._loss(self._student, self._teacher)
        value.backward()
        return value.item()

    def steps(self, count: int) -> list[Mark]:
        marks = [(time.perf_counter(), time.process_time())]
        for _ in range(count):
            self.losses.append(self.once())
            marks.append((time.perf_counter(), time.process_time()))
        return marks[1:]  # the first pass finds another loss's data in the caches

    def close(self) -> None:
        pass


def measure(size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Times all losses at one size.

    Args:
        size: Rows and classes.
        rounds: How often each has its turn.

    Returns:
        Microseconds by loss, and what ``kl_divergence`` takes of the time of each, with quartiles.
    """
    runs = _runs(size, LOSSES)
    values = {name: run.once() for name, run in runs.items()}
    spread = max(values.values()) - min(values.values())
    if not spread <= 1e-4 * abs(values['kl_div']):
        raise AssertionError(f'the losses differ at {size}: {values}')
    found = _timed(runs, size, rounds)
    ours = found['kl_divergence']
    return {
        'size': list(size),
        'microseconds': {name: _spread([1e6 * t for t in turns]) for name, turns in found.items()},
        'ratios': {name: _spread([a / b for a, b in zip(ours, turns)])
                   for name, turns in found.items() if name in ('stacked', 'kl_div')},
        'fused / plain': _spread([a / b for a, b in zip(found['fused'], found['plain'])]),
    }  # fmt: skip


def measure_kin(size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Times the other losses at one size; what each takes of the time of the plain expressions, with quartiles."""
    found = _timed(_runs(size, kin(*size)), size, rounds)
    return {
        'size': list(size),
        'microseconds': {name: _spread([1e6 * t for t in turns]) for name, turns in found.items()},
        'ratios': {name: {base: _spread([a / b for a, b in zip(turns, found[base])]) for base in ('stacked', 'kl_div')}
                   for name, turns in found.items() if name not in ('stacked', 'kl_div')},
    }  # fmt: skip


def _runs(size: tuple[int, int], functions: dict[str, Callable[[Tensor, Tensor], Tensor]]) -> dict[str, LossRun]:
    torch.manual_seed(0)
    student, teacher = (2 * torch.randn(size)).requires_grad_(), 2 * torch.randn(size)
    return {name: LossRun(loss, student, teacher) for name, loss in functions.items()}


def _timed(runs: dict[str, LossRun], size: tuple[int, int], rounds: int) -> dict[str, list[float]]:
    """Seconds by loss, one number a round; of as many passes as ``kl_div`` makes in a turn."""
    marks = runs['kl_div'].steps(5)
    pass_seconds = statistics.median(b[0] - a[0] for a, b in itertools.pairwise(marks))
    steps = min(200, max(3, round(TURN / pass_seconds)))
    return {name: [mark[0] for mark in turns] for name, turns in interleave(runs, rounds, steps, seed=size[0]).items()}


def _spread(values: list[float]) -> dict[str, float]:
    return dataclasses.asdict(Spread.of(values))


def _show(spread: dict[str, float], digits: int = 3) -> str:
    return f'{spread["median"]:.{digits}f} [{spread["low"]:.{digits}f}, {spread["high"]:.{digits}f}]'


def _targets(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    by_size = {tuple(row['size']): row for row in report['measured'] if row['threads'] == report['threads'][0]}
    rows = []
    for (name, size), target in TARGETS.items():
        if size in by_size:
            found = by_size[size]['ratios'][name]
            met = 'met' if found['median'] <= target else 'not met'
            what = f'G8: kl_divergence / {name}, {size[0]} x {size[1]}'
            rows.append([what, f'<= {target:.2f}', _show(found), met])
    return ['target', 'wanted', 'found', ''], rows


def _sweep(report: dict[str, Any], threads: int) -> tuple[list[str], list[list[str]]]:
    names = list(LOSSES)
    rows = [
        [f'{row["size"][0]} x {row["size"][1]}', str(row['size'][0] * row['size'][1]),
         *(f'{row["microseconds"][name]["median"]:.0f}' for name in names),
         _show(row['ratios']['stacked']), _show(row['ratios']['kl_div']), _show(row['fused / plain'])]
        for row in report['measured'] if row['threads'] == threads
    ]  # fmt: skip
    return ['rows x classes', 'elements', *names, '/ stacked', '/ kl_div', 'fused / plain'], rows


def _kin(report: dict[str, Any], threads: int) -> tuple[list[str], list[list[str]]]:
    rows = [
        [f'{row["size"][0]} x {row["size"][1]}', name, f'{row["microseconds"][name]["median"]:.0f}',
         _show(ratios['stacked']), _show(ratios['kl_div'])]
        for row in report['kin'] if row['threads'] == threads for name, ratios in row['ratios'].items()
    ]  # fmt: skip
    return ['rows x classes', 'loss', 'microseconds', '/ stacked', '/ kl_div'], rows


def _markdown(report: dict[str, Any]) -> str:
    facts = ', '.join(f'{key} {value}' for key, value in report['environment'].items())
    method = (
        'Forward and backward pass, float32, on the wall clock, in one process. The losses take turns in '
        f'{report["rounds"]} shuffled rounds; of a turn the median counts, ratios are taken inside a round, and given '
        'are the median and the quartiles over the rounds. Microseconds are medians. `kl_divergence` takes the fused '
        f'pass from {report["fused_from"]} elements on; `plain` and `fused` are the same function held to either way. '
        '`stacked` is the mean over a stack of one cloned teacher, then `F.kl_div`; `kl_div` is the usual expression.'
    )
    parts = ['# The distillation loss', f'`{report["command"]}`', facts, method, '## Targets',
             markdown_table(*_targets(report))]  # fmt: skip
    for threads in report['threads']:
        parts += [f'## {threads} thread(s)', markdown_table(*_sweep(report, threads))]
    parts += [
        '## Other losses of the kind',
        'Against the same two expressions, which compute forward KL only: a smaller task than that of most rows. '
        f'{report["kin_rounds"]} rounds; temperature {TEMPERATURE:g}, but dkd and '
        'nkd with their default settings.',
    ]
    for threads in report['threads']:
        parts += [f'### {threads} thread(s)', markdown_table(*_kin(report, threads))]
    return '\n\n'.join(parts) + '\n'


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes; returns what ``losses.json`` holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', nargs='+', type=int, default=[1, 2], metavar='N', help='(default: 1 2)')
    parser.add_argument('--rounds', type=int, default=15, metavar='N', help='(default: 15)')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).parent / 'results', metavar='DIR',
                        help='where losses.md and losses.json go (default: benchmarks/results)')  # fmt: skip
    options = parser.parse_args(arguments)
    console, measured, of_kin = Console(), [], []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for size in track(SIZES, f'{threads} thread(s): sizes', console=console):
            measured.append({'threads': threads, **measure(size, options.rounds)})
        for _, size in TARGETS:
            of_kin.append({'threads': threads, **measure_kin(size, min(KIN_ROUNDS, options.rounds))})
    report = {
        'command': f'python benchmarks/losses.py --threads {" ".join(map(str, options.threads))}',
        'environment': environment(),
        'threads': options.threads,
        'rounds': options.rounds,
        'fused_from': kl.FUSED_FROM,
        'measured': measured,
        'kin_rounds': min(KIN_ROUNDS, options.rounds),
        'kin': of_kin,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / 'losses.json').write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
    (options.out / 'losses.md').write_text(_markdown(report), encoding='utf-8')
    for threads in options.threads:
        console.print(f'\n{threads} thread(s), microseconds and ratios', style='bold', highlight=False)
        print_table(*_sweep(report, threads), console)
        print_table(*_kin(report, threads), console)
    console.print('\nTargets', style='bold')
    print_table(*_targets(report), console)
    return report


if __name__ == '__main__':
    main()
