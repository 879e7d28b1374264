"""Checks a sweep before it starts: tries its values on the run, and chooses the data that the trials are judged on."""

from __future__ import annotations

import functools
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from composer_kd.algorithms.joint_training import JointTraining
from composer_kd.config.construct import construct_or_say
from composer_kd.config.effects import QUIET as QUIET_SETTINGS
from composer_kd.config.effects import effect_of
from composer_kd.config.load import as_mapping, load_config
from composer_kd.config.markers import Effect
from composer_kd.config.schema import LoaderConfig, PeerConfig, RunConfig, TeacherConfig
from composer_kd.errors import Attempts, ComposerKDError, ConfigError, nearest
from composer_kd.presentation.settings import label
from composer_kd.runs.build import build_model
from composer_kd.runs.loaders import build_loader, check_held_out, evaluation_data
from composer_kd.runs.preflight import dry_run
from composer_kd.runs.stored import check_stores
from composer_kd.workflows.sweep.pairwise import covering_rows, shrink
from composer_kd.workflows.sweep.sweep_file import Sweep, listed

__all__ = ['QUIET', 'Plan', 'is_of_the_agent', 'make_plan', 'override']

HOLD_OUT = 0.1
MOST_DRY_RUNS = 6
# Keys that the sweep sets itself, and keys that select the evaluation data.
RESERVED = re.compile(r'(run_name|save_\w+|load_\w+|autoresume|eval_\w+|train_loader\.hold_out\w*)(\.|$)')
IS_TEST = re.compile(r'(?<![a-z])test', re.IGNORECASE)  # matches 'test', but not 'latest'
OF_THE_TRAINING = ('augment', 'subset', 'n_labels', 'keep_unlabelled', 'seed')  # do not identify a data set


@dataclass(frozen=True)
class Plan:
    """A checked sweep.

    Args:
        sweep: The sweep, as read from its YAML.
        overrides: The overrides of the run's YAML that all trials share.
        judged_on: A description of the samples that the trials are evaluated on.
        samples: The number of these samples.
        run: The run with the first value of each parameter; it identifies the sweep.
    """

    sweep: Sweep
    overrides: tuple[str, ...]
    judged_on: str
    samples: int
    run: RunConfig

    def config(self, settings: dict[str, Any], *more: str) -> RunConfig:
        """Configures the run with the given values.

        Args:
            settings: The values of the parameters, by dotted key.
            more: Further overrides.

        Returns:
            The checked configuration.
        """
        written = [override(key, value) for key, value in settings.items()]
        return load_config(self.sweep.base, [*self.overrides, *written, *more])


def override(key: str, value: Any) -> str:
    """Formats a setting as an override for the command line.

    Example:
        >>> override('optimizer', {'name': 'SGD', 'lr': 1e-05})
        'optimizer={"name": "SGD", "lr": 1e-05}'
    """
    return f'{key}={json.dumps(value)}'


QUIET = tuple(override(key, value) for key, value in QUIET_SETTINGS.items())


def is_of_the_agent(written: str) -> bool:
    """Returns whether an override only affects the output of a run: its name, logs, messages or files.

    Such overrides in the sweep's command apply to the runs of W&B's agents. A sweep on this machine ignores them,
    because it manages the files of its trials itself.

    Args:
        written: An override, ``key.sub=value``.

    Returns:
        ``True`` if the key affects the output only.

    Example:
        >>> is_of_the_agent('loggers={wandb: {}}'), is_of_the_agent('optimizer.lr=0.1')
        (True, False)
    """
    return effect_of(written.partition('=')[0]) is Effect.OUTPUT


def make_plan(sweep: Sweep, use_eval_loader: bool = False) -> Plan:
    """Chooses the evaluation data of a sweep and tries its values on the run, without training.

    Args:
        sweep: The sweep, from ``read_sweep``.
        use_eval_loader: Whether trials are evaluated on the run's own ``eval_loader``, even if it is a test set.

    Returns:
        The checked sweep, from which trials are made.

    Raises:
        ConfigError: If keys are unknown, values are invalid or incompatible, checkpoints are missing, the metric is not
            measured, or the trials would be judged on test or training data. The message lists the faults.

    Example:
        >>> from composer_kd.workflows.sweep.sweep_file import read_sweep
        >>> make_plan(read_sweep('yamls/sweeps/no_such.yaml'))
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: no configuration file 'yamls/sweeps/no_such.yaml'...
    """
    own = [text for text in sweep.fixed if not is_of_the_agent(text)]
    configs = _tried(sweep, (*own, *QUIET))
    chosen, judged_on = _judge(sweep, own, configs[0], use_eval_loader)
    overrides = (*chosen, *QUIET)
    if chosen != own:
        configs = _tried(sweep, overrides)
    _check_comparable(sweep, configs)
    samples = _dry_run(sweep, configs)
    return Plan(sweep, overrides, judged_on, samples, configs[0])


def _judge(sweep: Sweep, fixed: Sequence[str], run: RunConfig, use_eval_loader: bool) -> tuple[list[str], str]:
    """Returns the overrides that set the evaluation data of the trials, and a description of these data."""
    if use_eval_loader:
        if run.eval_loader is None:
            raise ConfigError(f'{sweep.base}: has no eval_loader to judge by; leave --use-eval-loader out')
        kept = [text for text in fixed if not text.startswith('train_loader.hold_out')]
        return kept, f"the run's own eval_loader ({_words(run.eval_loader)})"
    if run.train_loader.hold_out is not None:
        return list(fixed), _held_out_words(run.train_loader.hold_out)
    named = any(re.match(r'eval_loader(\.dataset\S*)?=', text) for text in fixed)
    if run.eval_loader is None or not named:  # the run's own evaluation data are kept for the final test
        return [*fixed, f'train_loader.hold_out={HOLD_OUT}'], _held_out_words(HOLD_OUT)
    said = f'{sweep.path}: the command has the runs evaluated on {_words(run.eval_loader)}'
    advice = f'take train_loader.hold_out={HOLD_OUT} in its place, or say --use-eval-loader if you mean it'
    if _is_test(run.eval_loader):
        raise ConfigError(f'{said}, a test set: what is chosen by it cannot be measured on it any more; {advice}')
    if _which_data(run.eval_loader) == _which_data(run.train_loader):
        raise ConfigError(f'{said}, which they train on; {advice}')
    return list(fixed), _words(run.eval_loader)


def _held_out_words(share: float) -> str:
    return f'{100 * share:g} % of the training samples, class-balanced, that no trial trains on'


def _is_test(loader: LoaderConfig) -> bool:
    texts = (loader.dataset.name.rpartition('.')[2], *loader.dataset.options.values())
    named = any(isinstance(text, str) and IS_TEST.search(text) for text in texts)
    return named or loader.dataset.options.get('train') is False  # torchvision's name for it


def _which_data(loader: LoaderConfig) -> dict[str, Any]:
    return {key: value for key, value in as_mapping(loader.dataset).items() if key not in OF_THE_TRAINING}


def _words(loader: LoaderConfig) -> str:
    return f'{loader.dataset.name}({", ".join(f"{key}={value!r}" for key, value in loader.dataset.options.items())})'


def _tried(sweep: Sweep, overrides: Sequence[str]) -> list[RunConfig]:
    configs, faults = _try_values(sweep, overrides)
    if faults:
        raise listed(sweep.path, faults)
    return configs


def _try_values(sweep: Sweep, overrides: Sequence[str]) -> tuple[list[RunConfig], list[str]]:
    """Checks the run with assignments that cover all pairs of values; names for each fault the values that cause it."""
    reserved = [p.key for p in sweep.parameters if RESERVED.match(p.key) or p.key == 'train_loader']
    faults = [f'parameters.{key}: is not searched: it says where and on what the trials are judged' for key in reserved]
    parameters = {p.key: p.representatives() for p in sweep.parameters if p.key not in reserved}
    default = {key: values[0] for key, values in parameters.items()}
    said: dict[str, str] = {}
    configs = []

    def tried(settings: dict[str, Any]) -> tuple[RunConfig | None, list[str]]:
        written = [override(key, value) for key, value in settings.items()]
        try:
            config = load_config(sweep.base, [*overrides, *written])
            return config, list(_missing_checkpoints(config))
        except ConfigError as error:
            lines = str(error).splitlines()
            return None, [line.strip() for line in lines[1:]] or lines

    def happens(fault: str, settings: dict[str, Any]) -> bool:
        return fault in tried(settings)[1]

    for row in covering_rows([len(values) for values in parameters.values()]):
        settings = {key: values[i] for (key, values), i in zip(parameters.items(), row)}
        config, found = tried(settings)
        for fault in (fault for fault in found if fault not in said):
            cause = shrink(settings, default, functools.partial(happens, fault))
            said[fault] = f' (with {", ".join(f"{k}={label(v)}" for k, v in cause.items())})' if cause else ''
        if config is not None:
            configs.append(config)
    return configs, [*faults, *(f'{fault}{cause}' for fault, cause in said.items())]


def _missing_checkpoints(config: RunConfig) -> Iterator[str]:
    for what, net in _nets(config):
        path = net.checkpoint
        if path is not None and '://' not in path and not pathlib.Path(path).exists():
            key = f'{net.model.path.removesuffix(".model")}.checkpoint'
            yield f'{key}: there is no {path!r}; train that {what} first'
    try:
        check_stores(config)
    except ComposerKDError as error:
        yield from str(error).splitlines()


def _nets(config: RunConfig) -> Iterator[tuple[str, TeacherConfig | PeerConfig]]:
    """Yields the teachers and peers of a run, each with what messages call it."""
    for part in config.algorithms.values():
        yield from (('teacher', teacher) for teacher in part.holding(TeacherConfig))
        yield from (('peer', peer) for peer in part.holding(PeerConfig))


def _check_comparable(sweep: Sweep, configs: Sequence[RunConfig]) -> None:
    """Refuses parameters that change the evaluation samples; builds the data to compare them where options differ."""
    kinds: dict[str, LoaderConfig] = {}
    for config in configs:
        data = _evaluated(config)
        kinds.setdefault(json.dumps([as_mapping(data.dataset), data.hold_out, data.hold_out_seed], default=str), data)
    if len(kinds) > 1 and len({_identity(data) for data in kinds.values()}) > 1:
        keys = [p.key for p in sweep.parameters if p.key.startswith(('train_loader', 'variables'))]
        said = f'parameters: with other values of {" or ".join(keys)} other samples decide'
        raise listed(sweep.path, [f'{said}, and trials could not be compared; search nothing that chooses samples'])


def _evaluated(config: RunConfig) -> LoaderConfig:
    data = evaluation_data(config.train_loader, config.eval_loader)
    assert data is not None
    return data


def _identity(data: LoaderConfig) -> tuple[Any, ...]:
    dataset: Any = build_loader(data, 1, 0, train=False).dataset
    return len(dataset), *(str(getattr(dataset, name, None)) for name in ('indices', 'targets'))


def _dry_run(sweep: Sweep, configs: Sequence[RunConfig]) -> int:
    """Builds and runs the data, student and teachers of each kind once; returns the number of evaluation samples."""
    kinds: dict[str, RunConfig] = {}
    for config in configs:
        parts = [config.train_loader.dataset, config.model, *(net.model for _, net in _nets(config))]
        kinds.setdefault(json.dumps([as_mapping(part) for part in parts], default=str), config)
    attempt, samples = Attempts(), 0
    for i, config in enumerate(list(kinds.values())[:MOST_DRY_RUNS]):
        count = attempt(_dry_run_one, config, sweep.metric if i == 0 else None)
        samples = samples or (count or 0)
    try:
        attempt.finish()
    except ComposerKDError as error:
        faults = dict.fromkeys(line for one in attempt.errors for line in str(one).splitlines())
        raise listed(sweep.path, list(faults)) from error
    return samples


def _dry_run_one(config: RunConfig, metric: str | None) -> int:
    train = build_loader(config.train_loader, config.device_train_batch_size, config.seed, train=True)
    evaluation = build_loader(_evaluated(config), config.device_eval_batch_size, config.seed, train=False)
    check_held_out(train, evaluation)
    model = build_model(config.model, getattr(train.dataset, 'num_classes', None))
    algorithms = {part.path: construct_or_say(part.with_options(part.options)) for part in config.algorithms.values()}
    if metric is not None:
        beside = [name for one in algorithms.values() if isinstance(one, JointTraining) for name in one.names()]
        _check_metric(metric, list(model.get_metrics(is_train=False)), beside, config)
    dry_run(model, algorithms, train, config.precision)
    return len(evaluation.dataset)  # type: ignore[arg-type]


def _check_metric(metric: str, names: Sequence[str], beside: Sequence[str], config: RunConfig) -> None:
    taught = any(part.options.get('run_teacher_on_eval') for part in config.algorithms.values())
    nets = ['', *(f'{net}/' for net in (*beside, *(['teacher'] if taught else [])))]
    measured = [f'metrics/eval/{net}{name}' for net in nets for name in names]
    if taught:
        measured += ['metrics/eval/agreement/top1', 'metrics/eval/agreement/kl']
    if metric not in measured:
        raise ConfigError(f'metric.name: {metric!r} is not measured in an evaluation{nearest(metric, measured)}')
