"""The teachers of ``layers.py``: their data, their training, which layers each strategy keeps, and their stores."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from typing import Any

import torch
from composer import Callback, Logger, State
from torch import Tensor
from typing_extensions import override

from benchmarks.jobs import ROOT, Result, result_path, written
from benchmarks.layers_data import PARTS, texts
from composer_kd.config.load import load_config
from composer_kd.runs.build import build_model
from composer_kd.runs.train import train
from composer_kd.workflows.cache import CacheSettings, cache

__all__ = [
    'STRATEGIES',
    'STUDENT',
    'TEACHER',
    'Basis',
    'Chosen',
    'Parts',
    'Stored',
    'Teacher',
    'answers_of',
    'logits_of',
    'overrides_of',
    'trained',
]

TEACHER, STUDENT = (ROOT / 'yamls' / 'layers' / f'{name}.yaml' for name in ('teacher', 'student'))
STRATEGIES = ('top', 'bottom', 'odd', 'even', 'spaced', 'importance')
ACCURACY, LOSS = 'metrics/eval/MulticlassAccuracy', 'metrics/eval/CrossEntropy'


class Answers(Callback):
    """Keeps the logits of the last evaluation, in the order of the samples."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []

    @override
    def eval_start(self, state: State, logger: Logger) -> None:
        self._logits = []

    @override
    def eval_after_forward(self, state: State, logger: Logger) -> None:
        outputs: Any = state.outputs
        self._logits.append(outputs.float())

    @property
    def logits(self) -> Tensor:
        """Those of all samples."""
        return torch.cat(self._logits)


@dataclasses.dataclass(frozen=True)
class Basis:
    """What all runs of a task share.

    Attributes:
        task: ``'sst2'`` or ``'mnli'``.
        pretrained: The folder of the pretrained model.
        max_length: The largest number of tokens.
        teacher_samples: How many the teacher is trained on; None for all of the training part.
        teacher_batches: Of 32.
        samples: How many the students are trained on, the first of those of the teacher.
        num_layers: Of a student.
        work: The folder of results.
    """

    task: str
    pretrained: str
    max_length: int
    teacher_samples: int | None
    teacher_batches: int
    samples: int
    num_layers: int
    work: str

    @property
    def overrides(self) -> tuple[str, ...]:
        """Those of both YAMLs."""
        return (
            *(f'variables.task={self.task}', f'variables.pretrained={self.pretrained}'),
            *(f'variables.max_length={self.max_length}', 'progress_bar=false'),
        )


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of the data: labels and groups of the test samples, and how many samples each part has."""

    basis: Basis
    batches = 1

    @property
    def name(self) -> str:
        """For people."""
        return f'parts of {self.basis.task}'

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies."""
        told = ['parts', self.basis.task, self.basis.pretrained, self.basis.max_length]
        return result_path(told, self.basis.work)

    def run(self) -> Result:
        """Reads the data."""
        same: Any = {'tokenizer': self.basis.pretrained, 'max_length': self.basis.max_length}
        parts = {part: texts(self.basis.task, part, **same) for part in PARTS}
        sizes = {part: len(samples) for part, samples in parts.items()}
        return {'labels': parts['test'].targets, 'groups': parts['test'].groups, 'sizes': sizes}


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The fine-tuning of the pretrained model, with all its layers."""

    basis: Basis

    @property
    def name(self) -> str:
        """For people."""
        return f'teacher of {self.basis.task}'

    @property
    def batches(self) -> int:
        """Of 32, of a model that is twice as deep."""
        return 2 * self.basis.teacher_batches

    @property
    def overrides(self) -> tuple[str, ...]:
        """Those of the YAML."""
        duration = f'{self.basis.teacher_batches}ba'
        subset = 'null' if self.basis.teacher_samples is None else self.basis.teacher_samples
        return (*self.basis.overrides, f'variables.subset={subset}', f'max_duration={duration}')

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies."""
        return result_path(written(TEACHER, self.overrides), self.basis.work)

    @property
    def checkpoint(self) -> str:
        """The trained weights."""
        return f'{self.path.with_suffix("")}/latest-rank0.pt'

    def run(self) -> Result:
        """Trains it."""
        folder = f'save_folder={self.path.with_suffix("")}'
        return trained(TEACHER, (*self.overrides, folder, 'save_overwrite=true'), self.path)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Which layers each strategy keeps of a teacher."""

    teacher: Teacher
    batches = 1

    @property
    def name(self) -> str:
        """For people."""
        return f'layers of {self.teacher.basis.task}'

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies."""
        basis = self.teacher.basis
        return result_path(['layers', self.teacher.path.stem, basis.samples, basis.num_layers], basis.work)

    def run(self) -> Result:
        """Cuts a student by each strategy."""
        return {'layers': {strategy: self._kept(strategy) for strategy in STRATEGIES}}

    def _kept(self, strategy: str) -> list[int]:
        overrides = [*overrides_of(self.teacher), f'variables.layers={strategy}']
        if strategy == 'importance':
            overrides.append('model.data={dataset: "${train_loader.dataset}"}')
        model: Any = build_model(load_config(STUDENT, [*overrides, 'variables.method=alone']).model)
        return list(model.config.cut_from['layers'])


@dataclasses.dataclass(frozen=True)
class Stored:
    """The store of a teacher's logits for the training samples of the students."""

    teacher: Teacher

    @property
    def name(self) -> str:
        """For people."""
        return f'store of {self.teacher.basis.task}'

    @property
    def batches(self) -> int:
        """Of 32, of a model that is twice as deep, without its backward pass."""
        return math.ceil(self.teacher.basis.samples / 32 * 2 / 3)

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies."""
        basis = self.teacher.basis
        return result_path(['store', self.teacher.path.stem, basis.samples], basis.work)

    @property
    def folder(self) -> pathlib.Path:
        """Where the store lies."""
        return self.path.with_suffix('')

    def run(self) -> Result:
        """Asks the teacher."""
        start = time.perf_counter()
        config = load_config(STUDENT, [*overrides_of(self.teacher), 'variables.method=live'])
        (store,) = cache(config, CacheSettings(resume=self.folder.exists()), str(self.folder))
        return {'seconds': time.perf_counter() - start, 'bytes': store.nbytes}


def overrides_of(teacher: Teacher) -> tuple[str, ...]:
    """The overrides of the YAML of a student."""
    basis = teacher.basis
    return (
        *(*basis.overrides, f'variables.subset={basis.samples}', f'variables.num_layers={basis.num_layers}'),
        *(f'variables.checkpoint={teacher.checkpoint}', f'variables.store={Stored(teacher).folder}'),
    )


def trained(yaml: pathlib.Path, overrides: tuple[str, ...], path: pathlib.Path) -> Result:
    """Trains a run, and keeps its logits for the samples that it is evaluated on beside the result.

    Args:
        yaml: What is run.
        overrides: Of the YAML.
        path: Where the result will lie.
    """
    answers = Answers()
    metrics = train(load_config(yaml, list(overrides)), [answers], quiet=True)
    torch.save(answers.logits, logits_of(path))
    found: Result = {'accuracy': metrics[ACCURACY], 'loss': metrics[LOSS], 'answers': answers_of(answers.logits)}
    if not math.isfinite(metrics[LOSS]):
        found['failed'] = 'diverged: the logits are not finite'
    return found


def logits_of(path: pathlib.Path) -> pathlib.Path:
    """The file of the logits of a result."""
    return path.with_suffix('.logits.pt')


def answers_of(logits: Tensor) -> str:
    """The most probable class of each sample, a digit each."""
    return ''.join(str(one) for one in logits.argmax(1).tolist())
