"""What a store saves, shown on handwritten digits: the same student from the live teacher and from the stored one."""

from __future__ import annotations

import pathlib
import shutil
import time
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from composer_kd.config.check import check
from composer_kd.config.schema import RunConfig
from composer_kd.config.yaml_source import Source
from composer_kd.presentation.console import terminal
from composer_kd.presentation.units import bytes_text, number_text, percent, seconds_text
from composer_kd.runs.files import LATEST, make_folder
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train
from composer_kd.workflows.cache.run import cache
from composer_kd.workflows.cache.settings import CacheSettings

__all__ = ['Comparison', 'cache_demo']

_SHAPE = {'in_channels': 1, 'image_size': 8, 'num_classes': 10}
_TEACHER = {'name': 'DeepCNN', **_SHAPE}


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        accuracy: The test accuracy of each run, by name: ``teacher``, ``live``, ``stored``.
        seconds: The training seconds of each run, without evaluation.
        build_seconds: The duration of the build.
        nbytes: The bytes of the store.
        same: The share of test images to which both students give the same class.
        apart: The largest difference between their logits.
    """

    accuracy: dict[str, float]
    seconds: dict[str, float]
    build_seconds: float
    nbytes: int
    same: float
    apart: float


def cache_demo(
    out: str | pathlib.Path = 'runs/cache-demo', teacher_epochs: int = 4, epochs: int = 8, samples: int | None = None
) -> Comparison:
    """Trains a teacher, a student from it, and the same student from a store of its outputs; prints what was measured.

    Args:
        out: The folder for the run folders ``teacher``, ``live`` and ``stored``, and for the ``store``.
        teacher_epochs: The epochs of the teacher.
        epochs: The epochs of each student.
        samples: How many training images are used; None for all.

    Returns:
        What was measured.

    Raises:
        ConfigError: If the folder cannot be created.
    """
    out, console = pathlib.Path(out), terminal()
    make_folder(out, '--out')
    shutil.rmtree(out / 'store', ignore_errors=True)  # a demo may be run again
    dataset = {'name': 'digits', 'split': 'train', **({} if samples is None else {'subset': samples})}
    live = [{'model': _TEACHER, 'checkpoint': str(out / 'teacher' / LATEST)}]
    runs = {
        'teacher': _run(out, 'teacher', _TEACHER, dataset, teacher_epochs, None),
        'live': _run(out, 'live', {'name': 'ShallowCNN', **_SHAPE}, dataset, epochs, live),
    }
    measured, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)  # small models gain nothing from a second one, and lose time on a busy machine
    try:
        for name in ('teacher', 'live'):
            console.print(f'training {name} ...', highlight=False)
            measured[name] = train(runs[name], quiet=True)
        start = time.perf_counter()
        (store,) = cache(runs['live'], CacheSettings(), out / 'store')
        build = time.perf_counter() - start
        stored = [{'cache': str(out / 'store')}]
        runs['stored'] = _run(out, 'stored', {'name': 'ShallowCNN', **_SHAPE}, dataset, epochs, stored)
        console.print('training stored ...', highlight=False)
        measured['stored'] = train(runs['stored'], quiet=True)
        same, apart = _agreement(out)
    finally:
        torch.set_num_threads(threads)
    found = Comparison(
        {name: one['metrics/eval/MulticlassAccuracy'] for name, one in measured.items()},
        {name: one['cost/train_seconds'] for name, one in measured.items()},
        build,
        store.nbytes,
        same,
        apart,
    )
    _show(found, out, epochs, console)
    return found


def _run(
    out: pathlib.Path, name: str, model: dict[str, Any], dataset: dict[str, Any], epochs: int, teachers: Any
) -> RunConfig:
    distilled = {'teachers': teachers, 'kd_loss_fn': {'name': 'KLDivergence', 'temperature': 4.0}}
    written = {
        'run_name': f'cache-demo-{name}',
        'seed': 0,
        'model': model,
        'optimizer': {'name': 'DecoupledSGDW', 'lr': 0.01 if teachers else 0.05, 'momentum': 0.9},
        'scheduler': {'name': 'CosineAnnealingWithWarmupScheduler', 't_warmup': '0.1dur'},
        'train_loader': {'dataset': dataset},
        'eval_loader': {'dataset': {'name': 'digits', 'split': 'test'}},
        'algorithms': {} if teachers is None else {'distillation': distilled},
        'max_duration': f'{epochs}ep',
        'eval_interval': f'{epochs}ep',
        'global_train_batch_size': 64,
        'device_eval_batch_size': 500,
        'save_folder': str(out / name),
        'save_interval': f'{epochs}ep',
        'save_num_checkpoints_to_keep': 1,
        'save_overwrite': True,
        'progress_bar': False,
    }
    return check(Source(pathlib.Path('demo'), written), RunConfig)


def _agreement(out: pathlib.Path) -> tuple[float, float]:
    """The share of test images to which both students give the same class, and how far their logits are apart."""
    runs = [open_run(out / name) for name in ('live', 'stored')]
    with torch.no_grad():
        live, stored = (torch.cat([run.model()(batch) for batch in run.batches(run.loader())]) for run in runs)
    return float((live.argmax(-1) == stored.argmax(-1)).float().mean()), float((live - stored).abs().max())


def _show(found: Comparison, out: pathlib.Path, epochs: int, console: Console) -> None:
    table = Table(title=f'The same student, {epochs} epochs', title_justify='left')
    for column in ('taught by', 'accuracy, %', 'training', 'and before it'):
        table.add_column(column, justify='left' if column == 'taught by' else 'right')
    for name, before in (('live', ''), ('stored', f'{seconds_text(found.build_seconds)} for the build')):
        accuracy, seconds = percent(found.accuracy[name]), seconds_text(found.seconds[name])
        table.add_row(f'the {name} teacher', accuracy, seconds, before)
    console.print(table, highlight=False)
    ratio = found.seconds['live'] / found.seconds['stored']
    for line in (
        f'Training with the store took {number_text(ratio)} times less. The store has {bytes_text(found.nbytes)}, and '
        'serves further runs.',
        f'Both students give the same class to {percent(found.same)} % of the test images; their logits are at most '
        f'{found.apart:.2g} apart. The teacher has {percent(found.accuracy["teacher"])} %.',
        f'The runs and the store are in {out}: composer-kd report {out}/teacher {out}/live {out}/stored',
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
