"""The students of ``layers.py``: their training, and their answers together."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics

import torch
from composer.models import ComposerClassifier
from torch import nn

from benchmarks.jobs import Result, execute, result_path, written
from benchmarks.layers_data import texts
from benchmarks.layers_teachers import STUDENT, Teacher, answers_of, logits_of, overrides_of, trained
from composer_kd import Ensemble

__all__ = ['Run', 'Together', 'Tuning']


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run of a student.

    Attributes:
        teacher: Whose layers it starts with.
        layers: Which ones.
        method: ``'alone'`` or ``'distilled'``.
        seed: Of the order of samples, and of dropout.
        rate: The learning rate.
        batches: Of the run.
        part: What it is evaluated on.
        more: Further overrides.
    """

    teacher: Teacher
    layers: tuple[int, ...]
    method: str
    seed: int
    rate: float
    batches: int
    part: str = 'test'
    more: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For people."""
        more = ''.join(f', {one}' for one in self.more)
        said = f'{self.teacher.basis.task}, {list(self.layers)}, {self.method}, {self.rate:g}'
        return f'{said}{more}, seed {self.seed}'

    @property
    def overrides(self) -> tuple[str, ...]:
        """Those of the YAML."""
        return (
            *overrides_of(self.teacher),
            *(f'variables.method={self.method}', f'variables.layers={list(self.layers)}', f'variables.lr={self.rate}'),
            *(f'seed={self.seed}', f'max_duration={self.batches}ba', f'eval_loader.dataset.part={self.part}'),
            *('save_folder=null', *self.more),
        )

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies: named after what the YAML with its overrides says."""
        return result_path(written(STUDENT, self.overrides), self.teacher.basis.work)

    def run(self) -> Result:
        """Trains."""
        return trained(STUDENT, self.overrides, self.path)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Several runs with one learning rate: their mean accuracy."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """For people."""
        return f'mean of {len(self.runs)} like {self.runs[0].name}'

    @property
    def batches(self) -> int:
        """Of all runs."""
        return sum(run.batches for run in self.runs)

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies."""
        return result_path(['mean', *(run.path.stem for run in self.runs)], self.runs[0].teacher.basis.work)

    def run(self) -> Result:
        """Trains all."""
        found = [execute(run, run.path) for run in self.runs]
        failed = [result['failed'] for result in found if 'failed' in result]
        accuracy = statistics.mean(result.get('accuracy', 0.0) for result in found)
        return {'accuracy': accuracy} | ({'failed': failed[0]} if failed else {})


@dataclasses.dataclass(frozen=True)
class Together:
    """Students of one seed, each cut in another way, evaluated as one model."""

    runs: tuple[Run, ...]
    batches = 1

    @property
    def name(self) -> str:
        """For people."""
        return f'{len(self.runs)} students together, {self.runs[0].method}, seed {self.runs[0].seed}'

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies."""
        return result_path(['together', *(run.path.stem for run in self.runs)], self.runs[0].teacher.basis.work)

    def run(self) -> Result:
        """Evaluates them by their answers, which were kept."""
        logits = [torch.load(logits_of(run.path), weights_only=True) for run in self.runs]
        members = [ComposerClassifier(nn.Embedding.from_pretrained(one), num_classes=one.shape[1]) for one in logits]
        samples = torch.arange(len(logits[0]))
        found = Ensemble(members)((samples, torch.zeros_like(samples)))
        basis = self.runs[0].teacher.basis
        labels = texts(basis.task, 'test', tokenizer=basis.pretrained, max_length=basis.max_length).targets
        accuracy = (found.argmax(1) == torch.tensor(labels)).float().mean().item()
        return {'accuracy': accuracy, 'answers': answers_of(found)}
