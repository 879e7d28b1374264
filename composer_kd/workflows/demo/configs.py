"""The configurations of the demo's runs, with the content of YAML files."""

from __future__ import annotations

import pathlib
from typing import Any

from composer_kd.config.check import check
from composer_kd.config.schema import RunConfig
from composer_kd.config.yaml_source import Source
from composer_kd.data import digits
from composer_kd.runs.files import LATEST
from composer_kd.workflows.demo.results import Settings

__all__ = ['checked_run', 'student_run', 'teacher_run']

_SHAPE = {'in_channels': 1, 'image_size': 8, 'num_classes': 10}
_TEACHER = {'name': 'DeepCNN', **_SHAPE}
_STUDENT = {'name': 'ShallowCNN', **_SHAPE}


def teacher_run(out: pathlib.Path, settings: Settings) -> RunConfig:
    """Configures the run of the teacher, which is trained with all labels.

    Args:
        out: The demo's folder; the run's folder is ``teacher`` in it.
        settings: The settings of the demo.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If a setting is out of range.

    Example:
        >>> str(teacher_run(pathlib.Path('runs/demo'), Settings()).folder)
        'runs/demo/teacher'
    """
    written = {
        'model': _TEACHER,
        'optimizer': _optimizer(0.05),
        'train_loader': {'dataset': {'name': 'digits', 'split': 'train'}},
    }
    return _run('teacher', out, written, 0, settings.teacher_epochs, settings)


def student_run(out: pathlib.Path, settings: Settings, seed: int, distilled: bool) -> RunConfig:
    """Configures the run of a student.

    The seed determines the initial weights, the choice of labels and the order of samples. An epoch has the same number
    of images for both students: the student alone cannot use unlabelled images, so it repeats its labelled ones.

    Args:
        out: The demo's folder; the run's folder is ``alone-<seed>`` or ``distilled-<seed>`` in it.
        settings: The settings of the demo.
        seed: The seed of the run.
        distilled: Whether the student is distilled from the run ``teacher`` in the same folder.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If a setting is out of range.

    Example:
        >>> run = student_run(pathlib.Path('runs/demo'), Settings(), seed=2, distilled=True)
        >>> run.run_name, run.algorithms['distillation'].options['teachers'][0].checkpoint
        ('demo-distilled-2', 'runs/demo/teacher/latest-rank0.pt')
    """
    labels = {'n_labels': settings.n_labels, 'keep_unlabelled': distilled, 'seed': seed}
    written = {
        'model': _STUDENT,
        'optimizer': _optimizer(0.01),
        'train_loader': {
            'dataset': {'name': 'digits', 'split': 'train', **labels},
            'samples_per_epoch': len(digits('train')),  # type: ignore[arg-type]
        },
        'algorithms': {'distillation': _distillation(out, settings)} if distilled else {},
    }
    name = f'{"distilled" if distilled else "alone"}-{seed}'
    return _run(name, out, written, seed, settings.student_epochs, settings)


def _optimizer(lr: float) -> dict[str, Any]:
    return {'name': 'DecoupledSGDW', 'lr': lr, 'momentum': 0.9, 'weight_decay': 1e-4}


def _distillation(out: pathlib.Path, settings: Settings) -> dict[str, Any]:
    return {
        'teachers': [{'model': _TEACHER, 'checkpoint': str(out / 'teacher' / LATEST)}],
        'kd_loss_fn': {'name': 'KLDivergence', 'temperature': settings.temperature},
    }


def _run(
    name: str, out: pathlib.Path, written: dict[str, Any], seed: int, epochs: int, settings: Settings
) -> RunConfig:
    """Adds what all runs of this demo share."""
    common = {
        'scheduler': {'name': 'CosineAnnealingWithWarmupScheduler', 't_warmup': '0.1dur'},
        'eval_loader': {'dataset': {'name': 'digits', 'split': 'test'}},
        'device_eval_batch_size': 500,
    }
    return checked_run(f'demo-{name}', out / name, {**written, **common}, seed, epochs, settings.batch_size)


def checked_run(
    run_name: str, folder: pathlib.Path, written: dict[str, Any], seed: int, epochs: int, batch_size: int
) -> RunConfig:
    """Adds what the runs of all demos share, and checks the result as a YAML file is checked.

    Args:
        run_name: The name of the run.
        folder: Its folder.
        written: Its other settings.
        seed: Its seed.
        epochs: How long it trains; it is evaluated after each, and saved after the last.
        batch_size: Of its training batches.

    Raises:
        ConfigError: If a setting is out of range.
    """
    common = {
        'run_name': run_name,
        'seed': seed,
        'max_duration': f'{epochs}ep',
        'eval_interval': '1ep',
        'global_train_batch_size': batch_size,
        'save_folder': str(folder),
        'save_interval': f'{epochs}ep',
        'save_num_checkpoints_to_keep': 1,
        'save_overwrite': True,  # a demo may be run again
        'progress_bar': False,
    }
    return check(Source(pathlib.Path('demo'), {**written, **common}), RunConfig)
