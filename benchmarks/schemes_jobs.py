"""What ``schemes.py`` runs: a teacher's training, stores of its outputs, and training runs."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from typing import NamedTuple

from benchmarks.jobs import ROOT, Result, result_path, written
from composer_kd.config.load import load_config
from composer_kd.config.stages import load_chain
from composer_kd.runs.train import train
from composer_kd.stores import Dense, Format, Sampled, Store, TopK, recode
from composer_kd.workflows.cache import CacheSettings, cache
from composer_kd.workflows.stages import train_stages

__all__ = ['STORED', 'Kind', 'Run', 'Stored', 'Trained']

YAML = ROOT / 'yamls' / 'schemes' / 'cifar10.yaml'
TEMPERATURE = 4.0
FORMS: dict[str, Format] = {'dense': Dense(), 'topk': TopK(4, TEMPERATURE), 'sampled': Sampled(12, TEMPERATURE)}
ACCURACY = 'metrics/eval/MulticlassAccuracy'
SAME = ('progress_bar=false',)


class Kind(NamedTuple):
    """Which store a method reads."""

    teacher: str
    form: str


STORED = {
    'dense': Kind('resnet56', 'dense'),
    'topk': Kind('resnet56', 'topk'),
    'sampled': Kind('resnet56', 'sampled'),
    'dist': Kind('resnet56', 'dense'),
    'deep': Kind('deep', 'dense'),
    'assistant': Kind('resnet56', 'dense'),
}
# What the YAML calls a method that has another name here, and which net learns.
WRITTEN = {
    'deep': ('dense', 'shallow'),
    'small': ('alone', 'small'),
    'self': ('self', 'small'),
}
CHAINS = {'assistant': 'student', 'born_again': 'student-3'}
"""Methods of several stages, each a YAML of its own, and the stage whose student counts."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """The training of the deep CNN, on all labels."""

    batches: int
    work: str

    @property
    def name(self) -> str:
        """For people."""
        return 'the deep CNN'

    @property
    def folder(self) -> str:
        """Where its checkpoint lies."""
        return f'{self.work}/deep-{self.batches}'

    @property
    def path(self) -> pathlib.Path:
        """Where its result lies."""
        return result_path(['deep', self.batches], self.work)

    def run(self) -> Result:
        """Trains it."""
        overrides = [f'max_duration={self.batches}ba', f'eval_interval={self.batches}ba', *SAME]
        overrides += [f'save_folder={self.folder}', 'algorithms={channels_last: {}}']
        metrics = train(load_config(ROOT / 'yamls' / 'cifar10' / 'teacher.yaml', overrides))
        return {'accuracy': metrics[ACCURACY]}


@dataclasses.dataclass(frozen=True)
class Stored:
    """The store of a teacher's outputs for all views of a part of the training images."""

    teacher: str
    part: str
    views: int
    form: str
    work: str
    trained: Trained | None = None
    source: Stored | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f'{self.form} store of {self.teacher}, {self.part}, {self.views} views'

    @property
    def batches(self) -> int:
        """Of 128 images; one hundredth of them, where no teacher runs."""
        return self.views * 391 // (1 if self.source is None else 100)

    @property
    def folder(self) -> pathlib.Path:
        """Where it lies."""
        return self.path.with_suffix('')

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies."""
        trained = None if self.trained is None else self.trained.batches
        return result_path(['store', self.teacher, self.part, self.views, self.form, trained], self.work)

    def run(self) -> Result:
        """Asks the teacher, or makes another format of the dense store."""
        if self.trained is not None and self.source is None and not self.trained.path.exists():
            from benchmarks.jobs import execute

            execute(self.trained, self.trained.path)
        start = time.perf_counter()
        if self.source is not None:
            store = recode(Store(self.source.folder), self.folder, FORMS[self.form], resume=self.folder.exists())
        else:
            overrides = ['variables.method=live', f'variables.teacher={self.teacher}', *_images(self.part, 'all')]
            overrides += [f'train_loader.views={self.views}', *SAME]
            if self.trained is not None:
                overrides += [f'variables.teachers.deep.checkpoint={self.trained.folder}/latest-rank0.pt']
            settings = CacheSettings(resume=self.folder.exists())
            cache(load_config(YAML, overrides), settings, str(self.folder))
            store = Store(self.folder)
        return {'seconds': time.perf_counter() - start, 'bytes': store.nbytes}


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run of the student."""

    method: str
    setting: str
    seed: int
    rate: float
    part: str
    batches: int
    work: str
    store: Stored | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f'{self.method}, {self.setting}, {self.rate:g}, seed {self.seed}'

    @property
    def overrides(self) -> tuple[str, ...]:
        """Those of the YAML."""
        alone = self.setting == 'few' and self.store is None and self.method != 'live'
        method, model = WRITTEN.get(self.method, (self.method, 'shallow'))
        chosen = [] if self.method in CHAINS else [f'variables.method={method}', f'variables.model={model}']
        found = [
            *chosen,
            *_images(self.part, 'few_alone' if alone else self.setting),
            *(['train_loader.samples_per_epoch=50000'] if alone else []),
            *(f'variables.lr={self.rate}', f'seed={self.seed}'),
            *([] if self.method in CHAINS else ['save_folder=null']),
            *(f'max_duration={self.batches}ba', f'eval_interval={self.batches}ba', *SAME),
        ]
        if self.store is not None:
            found += [f'variables.store={self.store.folder}']
            found += [] if self.method in CHAINS else [f'train_loader.views={self.store.views}']
        return tuple(found)

    @property
    def path(self) -> pathlib.Path:
        """Where the result lies: named after what the YAML with its overrides says."""
        if self.method in CHAINS:
            return result_path([self.method, _chain(self.method).read_text(), *self.overrides], self.work)
        return result_path(written(YAML, self.overrides), self.work)

    def run(self) -> Result:
        """Trains."""
        if self.method in CHAINS:
            folder = self.path.with_suffix('')
            stages = train_stages(
                load_chain(_chain(self.method), [*self.overrides, f'save_folder={folder}']), quiet=True
            )
            metrics = stages[CHAINS[self.method]]
            others = {name: one[ACCURACY] for name, one in stages.items() if ACCURACY in one}
        else:
            metrics = train(load_config(YAML, list(self.overrides)))
            others = {name: value for name, value in metrics.items() if name.startswith('metrics/eval/')}
        found: Result = {'accuracy': metrics[ACCURACY], 'others': others}
        if not math.isfinite(metrics['metrics/eval/CrossEntropy']):
            found['failed'] = 'diverged: the logits are not finite'
        return found


def _chain(method: str) -> pathlib.Path:
    return YAML.with_name(f'{method}.yaml')


def _images(part: str, labels: str) -> list[str]:
    if part == 'all':
        return [f'variables.labels={labels}']
    own = 'benchmarks.schemes_data.images'
    return [
        f'variables.labels={labels}',
        f'variables.images.{labels}.name={own}',
        f'variables.images.{labels}.split=rest',
        f'eval_loader.dataset={{name: {own}, split: held_out}}',
    ]
