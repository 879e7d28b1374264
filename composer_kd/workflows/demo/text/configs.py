"""The configurations of the runs of the demo on texts, with the content of YAML files."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any

from composer_kd.config.schema import RunConfig
from composer_kd.data.docstrings import PACKAGES
from composer_kd.runs.files import LATEST
from composer_kd.workflows.demo.configs import checked_run
from composer_kd.workflows.demo.text.results import TextSettings

__all__ = ['Task', 'student_run', 'task_of', 'teacher_run']


@dataclass(frozen=True)
class Task:
    """A text classification.

    Args:
        about: What it is, for people.
        labels: The names of its classes.
        dataset: Its data set, without the split.
    """

    about: str
    labels: list[str]
    dataset: dict[str, Any]


def task_of(settings: TextSettings) -> Task:
    """The task of the demo: the sentiment of sentences if there is data, else what every machine has.

    Args:
        settings: The settings of the demo.

    Example:
        >>> task_of(TextSettings(data='data')).labels
        ['negative', 'positive']
    """
    if settings.data is None:
        about = f'which of the packages {", ".join(PACKAGES)} a sentence of documentation is of'
        return Task(about, list(PACKAGES), {'name': 'docstrings', 'max_length': 24})
    dataset = {'name': 'glue', 'task': 'sst2', 'root': settings.data, 'max_length': 40}
    return Task('the sentiment of sentences from film reviews (SST-2)', ['negative', 'positive'], dataset)


def teacher_run(out: pathlib.Path, settings: TextSettings) -> RunConfig:
    """Configures the run of the teacher: the pretrained model, fine-tuned with the labels of all training texts.

    Args:
        out: The demo's folder; the run's folder is ``teacher`` in it.
        settings: The settings of the demo.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If a setting is out of range.

    Example:
        >>> str(teacher_run(pathlib.Path('runs/demo-text'), TextSettings()).folder)
        'runs/demo-text/teacher'
    """
    written = {
        'model': _teacher(settings),
        'train_loader': {'dataset': _train(settings)},
    }
    return _run('teacher', out, written, 0, settings.teacher_epochs, settings)


def student_run(out: pathlib.Path, settings: TextSettings, strategy: str, seed: int, distilled: bool) -> RunConfig:
    """Configures the run of a student, which is cut out of the teacher.

    The seed determines the choice of labels and the order of texts. An epoch has the same number of texts for both
    students: the student alone cannot use those without a label, so it repeats its labelled ones.

    Args:
        out: The demo's folder; the run's folder is ``<strategy>-alone-<seed>`` or ``<strategy>-distilled-<seed>``.
        settings: The settings of the demo.
        strategy: Which layers it keeps.
        seed: The seed of the run.
        distilled: Whether the student is distilled from the run ``teacher`` in the same folder.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If a setting is out of range.

    Example:
        >>> run = student_run(pathlib.Path('runs/demo-text'), TextSettings(), 'top', seed=2, distilled=True)
        >>> run.run_name, run.algorithms['distillation'].options['teachers'][0].checkpoint
        ('demo-text-top-distilled-2', 'runs/demo-text/teacher/latest-rank0.pt')
    """
    labels = {'n_labels': settings.n_labels, 'keep_unlabelled': distilled, 'seed': seed}
    teacher = {'model': _teacher(settings), 'checkpoint': str(out / 'teacher' / LATEST)}
    loss = {'name': 'KLDivergence', 'temperature': settings.temperature}
    written = {
        'model': {
            'name': 'student_from_teacher',
            'teacher': teacher,
            'layers': strategy,
            'num_layers': settings.num_layers,
        },
        'train_loader': {'dataset': {**_train(settings), **labels}, 'samples_per_epoch': settings.n_train},
        'algorithms': {'distillation': {'teachers': [teacher], 'kd_loss_fn': loss}} if distilled else {},
    }
    name = f'{strategy}-{"distilled" if distilled else "alone"}-{seed}'
    return _run(name, out, written, seed, settings.student_epochs, settings)


def _teacher(settings: TextSettings) -> dict[str, Any]:
    return {'name': 'hf_classifier', 'pretrained': settings.pretrained, 'labels': task_of(settings).labels}


def _train(settings: TextSettings) -> dict[str, Any]:
    tokenizer = {'tokenizer': settings.pretrained}
    return {**task_of(settings).dataset, **tokenizer, 'split': 'train', 'subset': settings.n_train}


def _run(
    name: str, out: pathlib.Path, written: dict[str, Any], seed: int, epochs: int, settings: TextSettings
) -> RunConfig:
    """Adds what all runs of this demo share."""
    common = {
        'optimizer': {'name': 'DecoupledAdamW', 'lr': settings.lr, 'weight_decay': 1e-5},
        'scheduler': {'name': 'LinearWithWarmupScheduler', 't_warmup': '0.1dur', 'alpha_f': 0.0},
        'eval_loader': {'dataset': {**_train(settings), 'split': 'validation', 'subset': settings.n_test}},
        'device_eval_batch_size': 100,
    }
    return checked_run(f'demo-text-{name}', out / name, {**written, **common}, seed, epochs, settings.batch_size)
