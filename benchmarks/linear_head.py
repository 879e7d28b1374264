"""Times the loss of a linear head at a large vocabulary, whole and in chunks, with the memory that each takes.

* ``whole``: ``F.linear`` for both models, then ``F.log_softmax`` and ``F.kl_div``, the usual expression;
* ``whole, fused loss``: ``F.linear`` for both models, then ``kl_divergence``;
* ``in chunks``: :func:`composer_kd.losses.linear_logits.in_chunks`, teacher as hidden states with its head.

Each also with the cross-entropy of labels. A step is a forward and a backward pass, to hidden states and weights of the
student's head. Times are compared inside each round; the memory is the highest of one step above what was there before,
in a process of its own. Writes ``linear_head.md`` and ``linear_head.json``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.report import markdown_table, print_table
from benchmarks.timing import Mark, Run, Spread, environment, interleave
from benchmarks.variants import _now
from composer_kd.bench.memory import peak_for
from composer_kd.losses import kl_divergence
from composer_kd.losses.linear_logits import LinearLogits, in_chunks

__all__ = ['main', 'measure']

TEMPERATURE = 2.0
WEIGHTS = (0.9, 0.1)
TARGETS = {'memory': 0.10, 'time': 1.0}


class Head:
    """Hidden states and heads of a student and a teacher, and labels."""

    def __init__(self, tokens: int, vocabulary: int, width: int, teacher_width: int) -> None:
        chance = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=chance)

        self.hidden = drawn(tokens, width).requires_grad_()
        self.weight = drawn(vocabulary, width).mul_(width**-0.5).requires_grad_()
        self.teacher_hidden = drawn(tokens, teacher_width)
        self.teacher_weight = drawn(vocabulary, teacher_width).mul_(2 * teacher_width**-0.5)
        self.labels = torch.randint(vocabulary, (tokens,), generator=chance)

    def step(self, loss: Callable[[Head], Tensor]) -> None:
        """A forward and a backward pass."""
        self.hidden.grad = self.weight.grad = None
        loss(self).backward()


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    """The usual expression."""
    log_p, q = F.log_softmax(student / TEMPERATURE, dim=-1), F.softmax(teacher / TEMPERATURE, dim=-1)
    return F.kl_div(log_p, q, reduction='batchmean') * TEMPERATURE**2


def fused(student: Tensor, teacher: Tensor) -> Tensor:
    """That of this package."""
    return kl_divergence(student, teacher, TEMPERATURE)


def whole(loss: Callable[[Tensor, Tensor], Tensor], labelled: bool) -> Callable[[Head], Tensor]:
    """A loss of all logits at once."""

    def run(head: Head) -> Tensor:
        student = F.linear(head.hidden, head.weight)
        with torch.no_grad():
            teacher = F.linear(head.teacher_hidden, head.teacher_weight)
        value = loss(student, teacher)
        return WEIGHTS[0] * value + WEIGHTS[1] * F.cross_entropy(student, head.labels) if labelled else value

    return run


def chunked(labelled: bool) -> Callable[[Head], Tensor]:
    """The same in chunks."""

    def both(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return WEIGHTS[0] * fused(student, teacher) + WEIGHTS[1] * F.cross_entropy(student, labels)

    def run(head: Head) -> Tensor:
        student = LinearLogits(head.hidden, head.weight)
        teacher = LinearLogits(head.teacher_hidden, head.teacher_weight)
        if labelled:
            return in_chunks(both, student, teacher, labels=head.labels)
        return in_chunks(fused, student, teacher)

    return run


LOSSES: dict[str, dict[str, Callable[[Head], Tensor]]] = {
    'divergence': {
        'whole': whole(naive, False), 'whole, fused loss': whole(fused, False), 'in chunks': chunked(False),
    },
    'divergence and cross-entropy': {
        'whole': whole(naive, True), 'whole, fused loss': whole(fused, True), 'in chunks': chunked(True),
    },
}  # fmt: skip


class Steps:
    """Steps of one variant."""

    losses: list[float] = []  # noqa: RUF012 - none of its own

    def __init__(self, head: Head, loss: Callable[[Head], Tensor]) -> None:
        self._head, self._loss = head, loss

    def steps(self, count: int) -> list[Mark]:
        marks = [_now()]
        for _ in range(count):
            self._head.step(self._loss)
            marks.append(_now())
        return marks

    def close(self) -> None:
        pass


def _memory(sizes: tuple[int, ...], what: str, name: str, threads: int) -> int:
    """The bytes that one step adds to what was there before it, gradients included; in a new process."""
    torch.set_num_threads(threads)
    head = Head(*sizes)
    Head(8, 64, 8, 8).step(LOSSES[what][name])  # what torch allocates once
    meter = peak_for(torch.device('cpu'))
    meter.start()
    head.step(LOSSES[what][name])
    grown = meter.growth()
    assert grown is not None, 'the peak of this process cannot be reset on this system'
    return grown


def measure(sizes: tuple[int, ...], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Measures all variants.

    Args:
        sizes: Tokens, vocabulary, width of the student, width of the teacher.
        threads: How many threads torch may use.
        rounds: How often each variant has its turn.

    Returns:
        For each loss: milliseconds and bytes of each variant, and its ratios to ``whole``.
    """
    context = multiprocessing.get_context('spawn')
    found = []
    for what, losses in LOSSES.items():
        memory = {}
        for name in losses:
            with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
                memory[name] = pool.submit(_memory, sizes, what, name, threads).result()
        torch.set_num_threads(threads)
        head = Head(*sizes)
        runs: dict[str, Run] = {name: Steps(head, loss) for name, loss in losses.items()}
        for run in runs.values():
            run.steps(1)
        marks = interleave(runs, rounds, 1, threads)
        values = {name: float(loss(head)) for name, loss in losses.items()}
        assert max(values.values()) - min(values.values()) < 1e-5 * abs(values['whole']), values
        found.append({'loss': what, 'variants': {name: _row(name, marks, memory) for name in losses}})
    return found


def _row(name: str, marks: dict[str, list[Mark]], memory: dict[str, int]) -> dict[str, Any]:
    times = [[mark[clock] for mark in marks[name]] for clock in (0, 1)]
    of_whole = [[mark[clock] for mark in marks['whole']] for clock in (0, 1)]
    ratios = [[one / other for one, other in zip(*pair)] for pair in zip(times, of_whole)]
    return {
        'seconds': dataclasses.asdict(Spread.of(times[0])),
        'time': dataclasses.asdict(Spread.of(ratios[0])),
        'processor': dataclasses.asdict(Spread.of(ratios[1])),
        'bytes': memory[name],
        'memory': memory[name] / memory['whole'],
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes.

    Args:
        arguments: Of the command line; ``None`` for the process's own.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tokens', type=int, default=2048)
    parser.add_argument('--vocabulary', type=int, default=128_256)
    parser.add_argument('--width', type=int, default=512, help='of the student')
    parser.add_argument('--teacher-width', type=int, default=1024)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).parent / 'results')
    options = parser.parse_args(arguments)
    sizes = (options.tokens, options.vocabulary, options.width, options.teacher_width)
    command = 'python benchmarks/linear_head.py ' + ' '.join(
        f'--{name.replace("_", "-")} {getattr(options, name)}'
        for name in ('tokens', 'vocabulary', 'width', 'teacher_width', 'threads', 'rounds')
    )
    report = {'command': command, 'environment': environment(), 'targets': TARGETS,
              'measured': measure(sizes, options.threads, options.rounds)}  # fmt: skip
    for one in report['measured']:
        Console().print(f'\n{one["loss"]}', style='bold')
        print_table(*_table(one), Console())
    _write(report, options.out)
    return report


def _table(one: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [name, f'{row["bytes"] / 1e6:,.0f}', f'{row["memory"]:.3f}', f'{row["seconds"]["median"]:.2f}',
         _spread(row['time']), _spread(row['processor'])]
        for name, row in one['variants'].items()
    ]  # fmt: skip
    return ['variant', 'MB', 'of whole', 's', 'time of whole', 'processor of whole'], rows


def _spread(spread: dict[str, float]) -> str:
    return f'{spread["median"]:.3f} [{spread["low"]:.3f}, {spread["high"]:.3f}]'


def _write(report: dict[str, Any], out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    facts = ', '.join(f'{key} {value}' for key, value in report['environment'].items())
    about = (__doc__ or '').partition(' Writes')[0]
    text = ['# A linear head at a large vocabulary', f'`{report["command"]}`', facts, about]
    for one in report['measured']:
        text += [f'## {one["loss"]}', markdown_table(*_table(one))]
    text += [f'Wanted of `in chunks`: at most {TARGETS["memory"]} of the memory and {TARGETS["time"]} of the time.']
    (out / 'linear_head.md').write_text('\n\n'.join(text) + '\n', encoding='utf-8')
    (out / 'linear_head.json').write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
