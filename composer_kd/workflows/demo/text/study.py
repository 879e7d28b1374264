"""The workflow of ``composer-kd demo --text``: trains the runs one after the other and reports the results."""

from __future__ import annotations

import pathlib
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from composer_kd.config.construct import construct_or_say
from composer_kd.config.schema import RunConfig
from composer_kd.presentation.console import terminal
from composer_kd.presentation.roles import TEACHER
from composer_kd.pretrained import quiet
from composer_kd.runs.build import build_model
from composer_kd.runs.files import make_folder
from composer_kd.workflows.demo.report import NUMBERS_FILE
from composer_kd.workflows.demo.results import Entry
from composer_kd.workflows.demo.study import measure, say_what_next, train_all
from composer_kd.workflows.demo.text.configs import Task, student_run, task_of, teacher_run
from composer_kd.workflows.demo.text.report import write_report
from composer_kd.workflows.demo.text.results import TextResults, TextSettings

__all__ = ['text_demo']

Rows = list[tuple[Entry, list[RunConfig]]]


def text_demo(
    out: str | pathlib.Path = 'runs/demo-text', seeds: Sequence[int] = (0, 1), settings: TextSettings | None = None
) -> TextResults:
    """Fine-tunes a BERT, cuts students out of it, and trains each with few labels, alone and taught by it.

    Args:
        out: The folder for ``results.json``, ``results.md`` and ``results.png``, and for the run folders ``teacher``,
            ``<strategy>-alone-<seed>`` and ``<strategy>-distilled-<seed>``, which have the files that
            ``composer-kd train`` writes.
        seeds: The seeds; each student is trained once with each.
        settings: The settings of the demo; by default ``TextSettings()``.

    Returns:
        The accuracies, costs and gains.

    Raises:
        ConfigError: If the pretrained model or the texts are missing, a setting is out of range, or the folder cannot
            be created; raised before training starts.
    """
    settings, out = settings or TextSettings(), pathlib.Path(out)
    make_folder(out, '--out')
    task = task_of(settings)
    results = _results(settings, task)
    teacher = teacher_run(out, settings)
    rows: Rows = [(results.teacher, [teacher])]
    for strategy, pair in results.students.items():
        for entry, distilled in zip(pair, (False, True)):
            rows.append((entry, [student_run(out, settings, strategy, seed, distilled) for seed in seeds]))
    with _without_remarks():
        for run in (runs[0] for _, runs in rows):
            construct_or_say(run.train_loader.dataset)  # checks that there are enough texts and labels
        assert teacher.eval_loader is not None
        construct_or_say(teacher.eval_loader.dataset)
        build_model(teacher.model)
        (out / NUMBERS_FILE).unlink(missing_ok=True)  # the runs of an earlier demo are overwritten
        console, start = terminal(), time.perf_counter()
        console.print(_introduction(settings, task), highlight=False)
        train_all(rows, settings.n_train, console)
        _measure_all(rows, results, task)
    results.seconds = time.perf_counter() - start
    write_report(results, out, console)
    say_what_next([f'evaluate {out}/*/', f'report {out}/*/'], console)
    return results


def _results(settings: TextSettings, task: Task) -> TextResults:
    few = f'{settings.n_labels} labels'
    students = {
        strategy: (Entry(f'{strategy}, alone', few), Entry(f'{strategy}, distilled', f'{few}, teacher'))
        for strategy in settings.strategies
    }
    return TextResults(settings, task.about, Entry(TEACHER, f'{settings.n_train:,} labels'), students)


def _introduction(settings: TextSettings, task: Task) -> str:
    return (
        f'The task: {task.about}; {settings.n_train:,} texts for training and {settings.n_test:,} for testing. The '
        f'students are {settings.num_layers} layers of the fine-tuned teacher, and get {settings.n_labels} labels; the '
        'distilled ones also ask the teacher about the texts without a label.\n'
    )


def _measure_all(rows: Rows, results: TextResults, task: Task) -> None:
    """Measures the teacher and one student: all have one architecture, and differences would be noise."""
    teacher: Any = build_model(rows[0][1][0].model)
    _measure(results.teacher, teacher.model, task)
    students = [entry for entry, _ in rows[1:]]
    for entry, runs in rows[1::2]:  # the student alone and the distilled one are cut alike
        model: Any = build_model(runs[0].model)
        results.layers[runs[0].model.options['layers']] = model.config.cut_from['layers']
        if entry is students[0]:
            _measure(entry, model.model, task)
    for entry in students[1:]:
        entry.parameters, entry.size, entry.latency = students[0].parameters, students[0].size, students[0].latency


def _measure(entry: Entry, module: torch.nn.Module, task: Task) -> None:
    """Measures a model, with one text of the largest length."""
    text = torch.ones(1, task.dataset['max_length'], dtype=torch.long)
    measure(entry, module, 'module(input_ids=text, attention_mask=text)', {'text': text})


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Leaves out what would be said of every run: that heads are new, and that long texts are cut."""
    with quiet('the demo on texts'), warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*samples have more than max_length')
        yield
