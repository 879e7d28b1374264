"""Times the schemes against their bounds: stored teachers, sampling, averages, peers, and the building of a store.

Variants of a workload start from the same weights, see the same batches in memory and take turns in shuffled rounds, as
in ``step.py``; ratios are taken inside a round. Writes ``schemes_cost.md`` and ``schemes_cost.json``.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import logging
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from composer.core import Algorithm
from composer.models import ComposerModel
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from typing_extensions import override

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.report import markdown_table, print_table
from benchmarks.step import Quantity, _evaluate, _milliseconds
from benchmarks.timing import Mark, Run, environment, interleave
from benchmarks.variants import ComposerRun, _now, _teacher
from benchmarks.workloads import WORKLOADS, Batches, Workload
from composer_kd import CachedTeacher, Distillation, EMATeacher, KLDivergence, MutualLearning, build_store
from composer_kd.data import Indexed
from composer_kd.models import IndexedClassifier, ShallowCNN, resnet56
from composer_kd.stores import Dense, Format, TopK

__all__ = ['COSTS', 'main', 'measure']

NEVER = '1000000000ba'
WARM_UP = 2


class Held(Dataset[Any]):
    """Samples of a workload's batches, one by one."""

    def __init__(self, batches: list[Any]) -> None:
        self._samples = [sample for batch in batches for sample in _samples(batch)]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return self._samples[index]


def _samples(batch: Any) -> list[Any]:
    if isinstance(batch, dict):
        count = len(next(iter(batch.values())))
        return [{key: value[row] for key, value in batch.items()} for row in range(count)]
    return list(zip(*batch))


class IndexedBatches(Batches):
    """The batches with the samples' numbers; their data set can be asked for."""

    def __init__(self, workload: Workload) -> None:
        self.dataset = Indexed(Held(workload.seeded(workload.batches)))
        size = workload.batch_size
        numbers = range(len(self.dataset))
        batches = [[self.dataset[number] for number in numbers[at : at + size]] for at in numbers[::size]]
        super().__init__([default_collate(batch) for batch in batches], size)


class Steps(ComposerRun):
    """Steps of a Composer trainer on such batches."""

    @override
    def model(self, workload: Workload, module: nn.Module) -> ComposerModel:
        return _indexed(workload, module)

    @override
    def batches(self, workload: Workload) -> Batches:
        return IndexedBatches(workload)


class Passes:
    """Passes over the data, with something done in each: one pass is a step."""

    losses: list[float] = []  # noqa: RUF012 - none of its own

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run

    def steps(self, count: int) -> list[Mark]:
        marks = [_now()]
        for _ in range(count):
            self._run()
            marks.append(_now())
        return marks

    def close(self) -> None:
        pass


def _indexed(workload: Workload, module: torch.nn.Module) -> Any:
    wrapped = workload.in_composer(module)
    return wrapped if workload.name == 'bert' else IndexedClassifier(module, num_classes=workload.classes)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What is compared for a workload.

    Attributes:
        workload: Student, teacher and batches.
        formats: Those in which the teacher is stored.
        schemes: Whether the other schemes take part too.
        quantities: What is computed of the times.
    """

    workload: Workload
    formats: dict[str, Format]
    schemes: bool
    quantities: list[Quantity]


def _variants(cost: Cost, folder: pathlib.Path) -> dict[str, Run]:
    workload = cost.workload
    kd_weight, task_weight = workload.weights
    loss = KLDivergence(workload.temperature)
    teacher = _teacher(workload)

    def distilling(teachers: Any, **settings: Any) -> Algorithm:
        return Distillation(teachers, loss, kd_weight, task_weight, **settings)

    def live() -> Any:
        return copy.deepcopy(workload.in_composer(teacher))

    batches = IndexedBatches(workload)

    def asked() -> None:
        with torch.no_grad():
            for batch in _each_once(batches, workload):
                teacher(_inputs(batch, workload))

    def built(form: Format) -> Callable[[], Any]:
        def build() -> Any:
            student = _indexed(workload, workload.seeded(workload.student))
            with tempfile.TemporaryDirectory(dir=folder) as place:
                build_store(place, live(), student, batches.dataset.dataset, form, batch_size=workload.batch_size)

        return build

    runs: dict[str, Run] = {
        'student': Steps(workload),
        'live': Steps(workload, distilling(live())),
        'one pass of the teacher': Passes(asked),
    }
    for name, form in cost.formats.items():
        student = _indexed(workload, workload.seeded(workload.student))
        place = folder / f'{workload.name}-{name}'
        build_store(place, live(), student, batches.dataset.dataset, form, batch_size=workload.batch_size)
        runs[f'stored {name}'] = Steps(workload, distilling(CachedTeacher(place)))
        runs[f'building {name}'] = Passes(built(form))
    if cost.schemes:
        four = [live() for _ in range(4)]
        runs['four teachers'] = Steps(workload, distilling(copy.deepcopy(four)))
        runs['one of four'] = Steps(workload, distilling(copy.deepcopy(four), n_teachers_to_sample=1))
        runs['average, window closed'] = Steps(workload, distilling(EMATeacher('100ba'), start_dur=NEVER))
        peer = workload.seeded(workload.student)
        runs['two peers'] = Steps(workload, MutualLearning([peer]))
        runs['losses of two peers'] = Passes(_peer_losses(workload))
    return runs


def _each_once(batches: IndexedBatches, workload: Workload) -> list[Any]:
    return [next(batches) for _ in range(len(batches.dataset) // workload.batch_size)]


def _inputs(batch: Any, workload: Workload) -> Any:
    """What the bare modules get of a batch with numbers."""
    without = {key: value for key, value in batch.items() if key != 'index'} if isinstance(batch, dict) else batch[:2]
    return workload.inputs_and_labels(without)[0]


def _peer_losses(workload: Workload) -> Callable[[], None]:
    """The two divergences of two peers, forward and backward, on logits of their shape."""
    chance = torch.Generator().manual_seed(0)
    shape = (workload.batch_size, workload.classes)
    one, other = (torch.randn(shape, generator=chance).requires_grad_() for _ in range(2))
    loss: Callable[[Tensor, Tensor], Tensor] = KLDivergence(1.0)

    def both() -> None:
        loss(one, other.detach()).backward()
        loss(other, one.detach()).backward()

    return both


def _settled_resnet56() -> torch.nn.Module:
    """With statistics of BatchNorm, without which the activations of so deep a net overflow."""
    net = resnet56()
    with torch.no_grad():
        for _ in range(10):
            net(torch.randn(32, 3, 32, 32))
    return net


def _ratio(name: str, target: float | None, of: Callable[[dict[str, float]], float]) -> Quantity:
    return Quantity(name, 'ratio', of, target=target)


def _stored(form: str, target: float | None) -> Quantity:
    return _ratio(f'stored {form} / student', target, lambda t: t[f'stored {form}'] / t['student'])


def _building(form: str, target: float | None) -> Quantity:
    return _ratio(
        f'building {form} / one pass of the teacher', target,
        lambda t: t[f'building {form}'] / t['one pass of the teacher'],
    )  # fmt: skip


_LIVE = _ratio('live / student', None, lambda t: t['live'] / t['student'])
COSTS = {
    'cnn': Cost(
        WORKLOADS['cnn'], {'dense': Dense(), 'top-10': TopK(10, 4.0)}, True,
        [
            _stored('dense', 1.02), _stored('top-10', 1.02), _LIVE, _building('dense', 1.05), _building('top-10', 1.05),
            _ratio('(one of four - student) / (four teachers - student)', 0.27,
                   lambda t: (t['one of four'] - t['student']) / (t['four teachers'] - t['student'])),
            _ratio('(average - student) / student', 0.02,
                   lambda t: (t['average, window closed'] - t['student']) / t['student']),
            _ratio('two peers / (2 student + losses)', 1.03,
                   lambda t: t['two peers'] / (2 * t['student'] + t['losses of two peers'])),
        ],
    ),
    'bert': Cost(
        WORKLOADS['bert'], {'dense': Dense(), 'top-50': TopK(50, 4.0)}, False,
        [_stored('dense', None), _stored('top-50', 1.08), _LIVE, _building('dense', 1.05), _building('top-50', 1.05)],
    ),
    'cifar': Cost(
        dataclasses.replace(
            WORKLOADS['cnn'], name='cifar', classes=10,
            about='ResNet-56 teaching a shallow CNN; 128 x 3 x 32 x 32, 10 classes',
            student=ShallowCNN, teacher=_settled_resnet56, batches=lambda: [
                (torch.randn(128, 3, 32, 32), torch.randint(10, (128,))) for _ in range(8)
            ],
        ),
        {'dense': Dense()}, False,
        [_stored('dense', 1.02), _LIVE, _building('dense', 1.05),
         _ratio('stored dense / live', 0.2, lambda t: t['stored dense'] / t['live'])],
    ),
}  # fmt: skip
"""The comparisons by workload."""


def measure(cost: Cost, threads: int, rounds: int, steps: int) -> dict[str, Any]:
    """Measures one workload.

    Args:
        cost: What is compared.
        threads: How many threads torch may use.
        rounds: How often each variant has its turn.
        steps: Steps in a turn that count.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        runs = _variants(cost, pathlib.Path(folder))
        try:
            for run in runs.values():
                run.steps(WARM_UP)
            found = interleave(runs, rounds, steps, threads)
        finally:
            for run in runs.values():
                run.close()
    return {
        'workload': cost.workload.name,
        'about': cost.workload.about,
        'threads': threads,
        'rounds': rounds,
        'steps': steps,
        'variants': {name: _milliseconds(marks) for name, marks in found.items()},
        'quantities': [_evaluate(quantity, found) for quantity in cost.quantities],
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes.

    Args:
        arguments: Of the command line; ``None`` for the process's own.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workloads', nargs='+', default=list(COSTS), choices=COSTS)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--steps', type=int, default=3, help='in a turn')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).parent / 'results')
    options = parser.parse_args(arguments)
    command = (
        f'python benchmarks/schemes_cost.py --workloads {" ".join(options.workloads)} --threads {options.threads} '
        f'--rounds {options.rounds} --steps {options.steps}'
    )
    report: dict[str, Any] = {'command': command, 'environment': environment(), 'measured': []}
    console = Console()
    for name in options.workloads:
        measured = measure(COSTS[name], options.threads, options.rounds, options.steps)
        report['measured'].append(measured)
        console.print(f'\n{name}: {measured["about"]}', style='bold', highlight=False)
        print_table(*_quantities(measured), console)
        _write(report, options.out)
    return report


def _quantities(measured: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for one in measured['quantities']:
        wanted = '' if one['target'] is None else f'<= {one["target"]:g}'
        rows.append([one['name'], _spread(one['wall']), _spread(one['cpu']), wanted])
    return ['compared within each round', 'wall', 'processor', 'wanted'], rows


def _spread(spread: dict[str, float]) -> str:
    return f'{spread["median"]:.3f} [{spread["low"]:.3f}, {spread["high"]:.3f}]'


def _times(measured: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [[name, f'{one["wall"]["median"]:.2f}', f'{one["cpu"]["median"]:.2f}']
            for name, one in measured['variants'].items()]  # fmt: skip
    return ['variant', 'ms, wall', 'ms, processor'], rows


def _write(report: dict[str, Any], out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    facts = ', '.join(f'{key} {value}' for key, value in report['environment'].items())
    about = ' '.join((__doc__ or '').split('\n\n')[1].split()).partition(' Writes')[0]
    text = ['# What the schemes cost', f'`{report["command"]}`', facts, about]
    for one in report['measured']:
        text += [f'## {one["workload"]}, {one["threads"]} thread(s), {one["rounds"]} rounds', one['about'] + '.']
        text += [markdown_table(*_quantities(one)), markdown_table(*_times(one))]
    text += [
        'Medians and quartiles over the rounds. A pass of the teacher, and the building of a store, are of 8 batches; '
        'the building includes opening the folder, hashing the weights and the data set, and writing to disk. The '
        'average is updated outside the window, so that nothing but the update is added.'
    ]
    (out / 'schemes_cost.md').write_text('\n\n'.join(text) + '\n', encoding='utf-8')
    (out / 'schemes_cost.json').write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    main()
