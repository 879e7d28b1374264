"""What ``layers.py`` runs: the teachers' training, their stores, and the students' training, alone and together."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import statistics
import time
from typing import Any

import torch
from composer import Callback, Logger, State
from composer.models import ComposerClassifier
from torch import Tensor, nn
from typing_extensions import override

from benchmarks.jobs import ROOT, Result, execute, result_path, written
from benchmarks.layers_data import PARTS, texts
from composer_kd import Ensemble
from composer_kd.config.load import load_config
from composer_kd.runs.build import build_model
from composer_kd.runs.train import train
from composer_kd.workflows.cache import CacheSettings, cache

__all__ = ['STRATEGIES', 'Basis', 'Chosen', 'Parts', 'Run', 'Stored', 'Teacher', 'Together', 'Tuning']

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
        return _trained(TEACHER, (*self.overrides, folder, 'save_overwrite=true'), self.path)


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
        overrides = [*_of(self.teacher), f'variables.layers={strategy}']
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
        config = load_config(STUDENT, [*_of(self.teacher), 'variables.method=live'])
        (store,) = cache(config, CacheSettings(resume=self.folder.exists()), str(self.folder))
        return {'seconds': time.perf_counter() - start, 'bytes': store.nbytes}


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
            *_of(self.teacher),
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
        return _trained(STUDENT, self.overrides, self.path)


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
        logits = [torch.load(_logits_of(run.path), weights_only=True) for run in self.runs]
        members = [ComposerClassifier(nn.Embedding.from_pretrained(one), num_classes=one.shape[1]) for one in logits]
        samples = torch.arange(len(logits[0]))
        found = Ensemble(members)((samples, torch.zeros_like(samples)))
        basis = self.runs[0].teacher.basis
        labels = texts(basis.task, 'test', tokenizer=basis.pretrained, max_length=basis.max_length).targets
        accuracy = (found.argmax(1) == torch.tensor(labels)).float().mean().item()
        return {'accuracy': accuracy, 'answers': _answers(found)}


def _of(teacher: Teacher) -> tuple[str, ...]:
    """The overrides of the YAML of a student."""
    basis = teacher.basis
    return (
        *(*basis.overrides, f'variables.subset={basis.samples}', f'variables.num_layers={basis.num_layers}'),
        *(f'variables.checkpoint={teacher.checkpoint}', f'variables.store={Stored(teacher).folder}'),
    )


def _trained(yaml: pathlib.Path, overrides: tuple[str, ...], path: pathlib.Path) -> Result:
    answers = Answers()
    metrics = train(load_config(yaml, list(overrides)), [answers], quiet=True)
    torch.save(answers.logits, _logits_of(path))
    found: Result = {'accuracy': metrics[ACCURACY], 'loss': metrics[LOSS], 'answers': _answers(answers.logits)}
    if not math.isfinite(metrics[LOSS]):
        found['failed'] = 'diverged: the logits are not finite'
    return found


def _logits_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix('.logits.pt')


def _answers(logits: Tensor) -> str:
    """The most probable class of each sample, a digit each."""
    return ''.join(str(one) for one in logits.argmax(1).tolist())
