"""Dataclasses that define the keys of a run's YAML; the check reads their annotations.

The keys follow llm-foundry. ``Part('model')`` marks a mapping ``{name: ..., **options}`` whose name is looked up in the
scope of models; ``Part('algorithm')`` on a dict marks ``{snake_name: options}``.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from composer.core import Precision, Time
from composer.utils import dist

from composer_kd.config.conflicts import conflicts_of
from composer_kd.config.markers import (
    CheckpointName,
    Component,
    ConsoleInterval,
    Effect,
    Either,
    Folder,
    Interval,
    Label,
    LatestName,
    MayBeEmpty,
    NoSlash,
    NotNegative,
    OptionsOf,
    PackageNames,
    Part,
    Place,
    Positive,
    PositiveOrAll,
    PositiveTime,
    Regularly,
    RunLength,
    RunName,
    Seed,
    Share,
)
from composer_kd.config.profiler import ProfilerConfig
from composer_kd.config.stored import stored_conflicts, stored_teachers

__all__ = [
    'EvaluationConfig',
    'EvaluatorConfig',
    'LoaderConfig',
    'MeasuredConfig',
    'PeerConfig',
    'RunConfig',
    'SourceConfig',
    'TeacherConfig',
    'local_folder',
]


_Adapter = Annotated[Component, Part('adapter')]
INPUT_ADAPTERS = Either(
    'an input adapter: {name: ..., its options}, or a list of these',
    lambda value: list[_Adapter] if isinstance(value, list) else Annotated[Component | None, Part('adapter')],
)


@dataclass
class LoaderConfig:
    """A data set and how its samples are loaded; the batch size is set in ``RunConfig``."""

    dataset: Annotated[Component, Part('dataset')]
    with_index: bool = False  # batches are (x, y, index), for losses that store values per sample
    # Share of each class held out of training and used for evaluation instead of the data of eval_loader. An
    # eval_loader that sets its own hold_out keeps its data, which must be the same split of the same samples.
    hold_out: Annotated[float | None, Share] = None
    hold_out_seed: Annotated[int, NotNegative] = 0  # selects the samples; not the run's seed, to keep runs comparable
    # Samples per epoch: the data set is repeated, and each epoch continues where the previous one ended.
    samples_per_epoch: Annotated[int | None, Positive] = None
    # Number of views of each sample: the random transforms of epoch e are those of view e % views, drawn for each
    # sample from views_seed, the same in each run. None: they are drawn anew each time.
    views: Annotated[int | None, Positive] = None
    views_seed: Annotated[int, NotNegative] = 0  # not the run's seed, to keep runs comparable
    drop_last: bool = False
    shuffle: bool | None = None  # None: true for training, false for evaluation
    num_workers: Annotated[int, NotNegative, Effect.EXECUTION] = 0
    pin_memory: Annotated[bool | None, Effect.EXECUTION] = None  # None: true if there is a GPU
    # Makes a batch of a list of samples: the dotted path of a function, or {name: ..., its options}; None: torch's own
    collate_fn: Annotated[Component | None, Part('collate')] = None
    persistent_workers: Annotated[bool | None, Effect.EXECUTION] = None  # None: true if there are workers
    prefetch_factor: Annotated[int | None, Positive, Effect.EXECUTION] = None

    def conflicts(self) -> Iterator[str]:
        """Yields conflicts between settings that are valid on their own."""
        if self.views is None and self.views_seed:
            yield f'views_seed: needs views, the number of views of each sample, got {self.views_seed!r} without'
        for name in ('prefetch_factor', 'persistent_workers'):
            if self.num_workers == 0 and getattr(self, name):
                yield f'{name}: needs num_workers of at least 1, got {getattr(self, name)!r} with 0 workers'


@dataclass
class EvaluatorConfig(LoaderConfig):
    """Further data that a run is evaluated on, under a label of its own: ``metrics/<label>/<metric>``."""

    label: Annotated[str, Label] = field(kw_only=True)
    metrics: list[str] | None = None  # names, or patterns of names, of metrics of the model; None: all
    eval_interval: Annotated[Time | str | int | None, PositiveTime, Interval] = None  # None: that of the run
    subset_num_batches: Annotated[int | None, PositiveOrAll] = None  # None: eval_subset_num_batches of the run

    def conflicts(self) -> Iterator[str]:
        """Yields conflicts between settings that are valid on their own."""
        for name in ('hold_out', 'samples_per_epoch', 'views'):
            if getattr(self, name) is not None:
                yield f'{name}: is for training data; an evaluator goes once through the data set that it names'
        yield from super().conflicts()


@dataclass
class TeacherConfig:
    """One teacher: its model, the checkpoint with its weights, the adapters for its inputs, and how it is called."""

    model: Annotated[Component, Part('model')]
    checkpoint: Annotated[str | None, Place] = None
    entry: str | None = None  # which weights of the checkpoint, if several fit: 'ema', 'state_dict.teacher'
    input_adapter: Annotated[Any, INPUT_ADAPTERS] = None  # several are applied in this order
    # A function (model, batch) that returns logits: its dotted path, or {name: ..., its options}
    forward: Annotated[Component | None, Part('call')] = None
    name: str | None = None

    @property
    def is_random(self) -> bool:
        """Whether neither a checkpoint nor the model's option ``weights`` or ``pretrained`` gives trained weights."""
        return self.checkpoint is None and not any(self.model.options.get(key) for key in ('weights', 'pretrained'))

    def conflicts(self) -> Iterator[str]:
        """Yields conflicts between settings that are valid on their own."""
        if self.is_random and '.' not in self.model.name:  # the user's own model may load its weights itself
            yield (
                f'checkpoint: the teacher {self.model.name} has no checkpoint: its weights would be random; '
                'give the checkpoint of a trained one'
            )
        if self.entry is not None and self.checkpoint is None:
            yield f'entry: names weights in a checkpoint, and there is none; got {self.entry!r}'


@dataclass
class PeerConfig:
    """One peer: a net that trains beside the student."""

    model: Annotated[Component, Part('model')]
    checkpoint: Annotated[str | None, Place] = None  # the weights that it starts from; None: those it is built with
    entry: str | None = None  # which weights of the checkpoint, as for a teacher
    input_adapter: Annotated[Any, INPUT_ADAPTERS] = None
    name: Annotated[str | None, NoSlash] = None  # None: that of the model, as written
    lr: Annotated[float | None, Positive] = None  # None: that of the student

    @property
    def called(self) -> str:
        """Its name in the log and in messages."""
        return self.name or self.model.name.rpartition('.')[2]

    def from_scratch(self) -> PeerConfig:
        """A copy without the weights that it starts from."""
        return dataclasses.replace(self, checkpoint=None, entry=None)

    def conflicts(self) -> Iterator[str]:
        """Yields conflicts between settings that are valid on their own."""
        if self.entry is not None and self.checkpoint is None:
            yield f'entry: names weights in a checkpoint, and there is none; got {self.entry!r}'


@dataclass
class SourceConfig:
    """What a student is cut out of: a trained model."""

    model: Annotated[Component, Part('model')]
    checkpoint: Annotated[str | None, Place] = None
    entry: str | None = None  # which weights of the checkpoint, as for a teacher

    def conflicts(self) -> Iterator[str]:
        """Yields why its weights would not be those of a trained model."""
        if self.checkpoint is None:
            yield (
                'checkpoint: the trained weights are missing; a model that loads them itself is written as it is, '
                '{name: ..., its options}'
            )


@dataclass
class MeasuredConfig:
    """Samples on which a teacher is measured before a student is cut out of it."""

    dataset: Annotated[Component, Part('dataset')]
    samples: Annotated[int, Positive] = 256  # evenly spaced in the data set; all of a smaller one
    batch_size: Annotated[int, Positive] = 32
    collate_fn: Annotated[Component | None, Part('collate')] = None  # as of a loader


@dataclass
class ParallelismConfig:
    """How a model is divided over GPUs, under the keys of Composer's Trainer."""

    fsdp: Annotated[dict[str, Any] | None, OptionsOf('fsdp')] = None  # as fsdp_config
    tp: Any = None

    def conflicts(self) -> Iterator[str]:
        """Yields why tensor parallelism is left to scripts."""
        if self.tp is not None:
            yield (
                'tp: its layer_plan consists of objects of torch (ColwiseParallel(), ...), which a YAML cannot hold; '
                "give Trainer(parallelism_config={'tp': ...}) in a script"
            )


@dataclass
class RunConfig:
    """The settings of a training run. A key without an ``Effect`` changes what is learned."""

    model: Annotated[Component, Part('model')]
    optimizer: Annotated[Component, Part('optimizer')]
    train_loader: LoaderConfig
    max_duration: Annotated[RunLength, Effect.LENGTH]
    global_train_batch_size: Annotated[int, Positive]
    eval_loader: LoaderConfig | None = None
    # Data sets besides that of eval_loader, whose label is eval
    evaluators: Annotated[list[EvaluatorConfig], Effect.EVALUATION, MayBeEmpty()] = field(default_factory=list)
    scheduler: Annotated[Component | None, Part('scheduler')] = None
    algorithms: Annotated[dict[str, Component], Part('algorithm')] = field(default_factory=dict)
    callbacks: Annotated[dict[str, Component], Part('callback'), Effect.CALLBACKS] = field(default_factory=dict)
    loggers: Annotated[dict[str, Component], Part('logger'), Effect.OUTPUT] = field(default_factory=dict)
    variables: Annotated[dict[str, Any], Effect.REFERENCE] = field(default_factory=dict)
    # Packages that dotted names may be imported from, besides composer_kd.config.trust.PACKAGES and your own modules
    allow_imports: Annotated[list[str], PackageNames, Effect.EXECUTION] = field(default_factory=list)
    run_name: Annotated[str | None, RunName, Effect.OUTPUT] = None  # None: folder and name of the YAML, <folder>-<file>
    seed: Annotated[int, Seed, Effect.SEED] = 17
    precision: Precision | None = None  # None: Composer's default for the device
    device_train_microbatch_size: Annotated[int | Literal['auto'] | None, Positive, Effect.MICROBATCH] = None
    device_eval_batch_size: Annotated[int, Positive, Effect.EXECUTION] = 256
    eval_interval: Annotated[Regularly, Effect.EVALUATION] = 1
    train_subset_num_batches: Annotated[int, PositiveOrAll] = -1
    eval_subset_num_batches: Annotated[int, PositiveOrAll] = -1
    fsdp_config: Annotated[dict[str, Any] | None, OptionsOf('fsdp')] = None
    # The same as {fsdp: fsdp_config}, as Composer's Trainer has it
    parallelism_config: ParallelismConfig | None = None
    # The options of torch.compile, {} for its defaults; None: not compiled. Compiled code rounds otherwise
    compile_config: Annotated[dict[str, Any] | None, OptionsOf('compile'), Effect.EXECUTION] = None
    save_folder: Annotated[str | None, Folder, Place, Effect.OUTPUT] = 'runs/{run_name}'
    save_interval: Annotated[Regularly, Effect.OUTPUT] = '1ep'
    save_filename: Annotated[str, CheckpointName, Effect.OUTPUT] = 'ep{epoch}-ba{batch}-rank{rank}.pt'
    save_latest_filename: Annotated[str, LatestName, Effect.OUTPUT] = 'latest-rank{rank}.pt'  # a link to the last one
    # Whether a run that lies in save_folder may be replaced; None: no. With autoresume it is gone on with.
    save_overwrite: Annotated[bool | None, Effect.OUTPUT] = None
    save_weights_only: Annotated[bool, Effect.OUTPUT] = False
    save_num_checkpoints_to_keep: Annotated[int, PositiveOrAll, Effect.OUTPUT] = -1
    load_path: Annotated[str | None, Place, Effect.START] = None
    load_weights_only: Annotated[bool, Effect.START] = False
    load_strict_model_weights: Annotated[bool, Effect.START] = True
    # Parts of the checkpoint of load_path that are left out, as Composer's Trainer takes them: state/algorithms/*
    load_ignore_keys: Annotated[list[str], Effect.START] = field(default_factory=list)
    autoresume: Annotated[bool, Effect.OUTPUT] = False
    profiler: Annotated[ProfilerConfig | None, Effect.OUTPUT] = None
    # How much Composer itself logs, on standard error; None: warnings
    python_log_level: Annotated[Literal['critical', 'error', 'warning', 'info', 'debug'] | None, Effect.OUTPUT] = None
    progress_bar: Annotated[bool, Effect.OUTPUT] = True
    log_to_console: Annotated[bool, Effect.OUTPUT] = False
    console_log_interval: Annotated[Time | str | int, PositiveTime, ConsoleInterval, Effect.OUTPUT] = '1ba'

    def __post_init__(self) -> None:
        # A stored teacher finds what was said of a sample by the sample's number.
        if self.train_loader is not None and stored_teachers(self.algorithms):
            self.train_loader = dataclasses.replace(self.train_loader, with_index=True)

    @property
    def folder(self) -> pathlib.Path | None:
        """The run folder: ``save_folder`` with the run's name inserted; None if it is unset or not local."""
        return local_folder(self.save_folder, str(self.run_name))

    @property
    def remote_folder(self) -> str | None:
        """The URI of ``save_folder`` with the run's name inserted; None if it is not one."""
        if self.save_folder is None or '://' not in self.save_folder:
            return None
        return self.save_folder.replace('{run_name}', str(self.run_name))

    @property
    def latest_name(self) -> str:
        """The file name of the link to the latest checkpoint of rank 0."""
        return self.save_latest_filename.replace('{run_name}', str(self.run_name)).replace('{rank}', '0')

    @property
    def sharding(self) -> dict[str, Any] | None:
        """The settings of FSDP, from either key; None if the model is not sharded."""
        if self.fsdp_config is None and self.parallelism_config is not None:
            return self.parallelism_config.fsdp
        return self.fsdp_config

    @property
    def device_train_batch_size(self) -> int:
        """The number of samples that one process loads for a global batch."""
        return self.global_train_batch_size // dist.get_world_size()

    def conflicts(self) -> Iterator[str]:
        """Yields conflicts between settings that are valid on their own.

        Required keys with faults may be None: conflicts are checked in that case too, to report all faults together.

        Yields:
            One line for each conflict, which starts with the dotted key.
        """
        yield from conflicts_of(self)
        yield from stored_conflicts(self.algorithms)


@dataclass
class EvaluationConfig:
    """The settings that an evaluation needs; other keys of the run's YAML may require hardware that is not present."""

    model: Annotated[Component, Part('model')]
    eval_loader: LoaderConfig | None = None
    evaluators: Annotated[list[EvaluatorConfig], MayBeEmpty()] = field(default_factory=list)
    seed: Annotated[int, Seed] = 17
    precision: Precision | None = None
    device_eval_batch_size: Annotated[int, Positive] = 256
    eval_subset_num_batches: Annotated[int, PositiveOrAll] = -1


def elsewhere(save_folder: str | None, run_name: str, addition: str) -> dict[str, str]:
    """Names a run that is like another one, so that it gets a folder of its own beside that run's.

    Args:
        save_folder: That of the other run.
        run_name: That of the other run.
        addition: What is added to the name.

    Returns:
        The settings by key: ``run_name``, and ``save_folder`` if it does not follow from the name.

    Example:
        >>> elsewhere('runs/{run_name}', 'kd', 'again')
        {'run_name': 'kd-again'}
        >>> elsewhere('demo/kd-0', 'kd', 'again')
        {'run_name': 'kd-0-again', 'save_folder': 'demo/{run_name}'}
    """
    if save_folder is None or '{run_name}' in save_folder:
        return {'run_name': f'{run_name}-{addition}'}
    parent, slash, last = save_folder.rstrip('/').rpartition('/')
    return {'run_name': f'{last}-{addition}', 'save_folder': f'{parent}{slash}{{run_name}}'}


def local_folder(save_folder: str | None, run_name: str) -> pathlib.Path | None:
    """Inserts the run's name into a save folder; returns None if there is none, or if it is a URI."""
    if save_folder is None or '://' in save_folder:
        return None
    return pathlib.Path(save_folder.replace('{run_name}', run_name))
