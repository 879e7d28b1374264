"""Reads a sweep's YAML, which has W&B's format, so that ``wandb sweep FILE`` accepts the same file."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from composer_kd.config.shipped import located
from composer_kd.config.yaml_file import load_yaml, require_file
from composer_kd.errors import ConfigError, nearest
from composer_kd.workflows.sweep.space import Parameter, is_number, read_parameters

__all__ = ['ARGUMENTS', 'Sweep', 'listed', 'read_sweep']

ARGUMENTS = '${args_no_hyphens}'
METHODS = ('bayes', 'random', 'grid')
GOALS = ('minimize', 'maximize')
KEYS = (
    *('method', 'metric', 'parameters', 'command', 'early_terminate', 'name', 'description', 'run_cap', 'program'),
    *('project', 'entity', 'apiVersion', 'kind', 'controller', 'job', 'image_uri'),
)
METRIC_KEYS = ('name', 'goal', 'target', 'impute', 'impute_while_running')
LEAST = {'min_iter': 1, 'max_iter': 1, 's': 1, 'eta': 2}
MOST = {'min_iter': 10**6, 'max_iter': 10**6, 's': 100, 'eta': 1000}  # eta ** s is computed
STOPPING_KEYS: dict[str, tuple[str, ...]] = {'hyperband': ('min_iter', 'max_iter', 's', 'eta', 'strict'), 'median': ()}
# The words allowed before `train` in the command of a sweep on this machine, where a trial is one process.
LAUNCHERS = re.compile(r'(\$\{env\}|/usr/bin/env|\$\{interpreter\}|\S*python[\d.]*|-m|composer_kd|\S*composer-kd)')


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep's YAML, checked against W&B's format.

    Args:
        path: The YAML file.
        name: The sweep's name: the key ``name``, or the name of the file.
        method: ``bayes``, ``random`` or ``grid``.
        metric: The logged metric that is optimised.
        goal: ``minimize`` or ``maximize``.
        parameters: The search space.
        base: The YAML of the run.
        fixed: The overrides in the command, which all trials share.
        target: The value of the metric at which the sweep ends; ``None`` for no target.
        early_terminate: The key ``early_terminate``, which sets the pruning; ``None`` if it is absent.
        run_cap: The maximal number of trials.
        written: The whole YAML.
    """

    path: pathlib.Path
    name: str
    method: str
    metric: str
    goal: str
    parameters: tuple[Parameter, ...]
    base: pathlib.Path
    fixed: tuple[str, ...] = ()
    target: float | None = None
    early_terminate: dict[str, Any] | None = None
    run_cap: int | None = None
    written: dict[str, Any] = field(default_factory=dict)

    @property
    def sign(self) -> int:
        """1 if the metric is maximised, -1 if it is minimised."""
        return 1 if self.goal == 'maximize' else -1


def read_sweep(path: str | pathlib.Path, offline: bool = True) -> Sweep:
    """Reads a sweep's YAML and checks its format; the run's YAML is not read.

    Args:
        path: The YAML file.
        offline: Whether Optuna searches, rather than W&B's server, which supports more distributions and launchers.

    Returns:
        The sweep.

    Raises:
        ConfigError: If the file deviates from W&B's format or needs W&B's server; the message lists all faults.

    Example:
        >>> sweep = read_sweep('yamls/sweeps/digits.yaml')
        >>> sweep.method, sweep.metric, sweep.base.as_posix()
        ('bayes', 'metrics/eval/MulticlassAccuracy', '@digits/kd')
    """
    path = located(path)
    require_file(path)
    try:
        written = load_yaml(path)
        OmegaConf.load(path)  # refuses duplicate keys, of which PyYAML keeps the last
    except (yaml.YAMLError, OmegaConfBaseException, OSError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f'{path} is not valid YAML: {error}') from error
    if not isinstance(written, dict):
        raise ConfigError(
            f'{path}: expected a sweep with the keys method, metric, parameters, command; got {written!r}'
        )
    faults = [f'{key}: unknown key of a sweep{nearest(str(key), KEYS)}' for key in written if key not in KEYS]
    parameters, wrong = read_parameters(written.get('parameters'), offline)
    faults += wrong
    faults += [fault for check in _CHECKS for fault in check(written)]
    base, fixed, wrong = _read_command(written.get('command'), offline)
    faults += wrong
    if written.get('method') == 'grid':
        faults += [
            f'parameters.{parameter.key}: a grid needs values, or steps (int_uniform, q_uniform), and this has none'
            for parameter in parameters
            if parameter.grid() is None
        ]
    if faults:
        raise listed(path, faults)
    metric = written['metric']
    return Sweep(
        path=path,
        name=str(written.get('name') or path.stem),
        method=written['method'],
        metric=metric['name'],
        goal=metric.get('goal', 'minimize'),
        parameters=tuple(parameters),
        base=pathlib.Path(base),
        fixed=tuple(fixed),
        target=metric.get('target'),
        early_terminate=written.get('early_terminate'),
        run_cap=written.get('run_cap'),
        written=written,
    )


def listed(path: pathlib.Path, faults: list[str]) -> ConfigError:
    """Makes one error that lists all faults.

    Args:
        path: The sweep's YAML file.
        faults: The faults, one line each.

    Returns:
        The error, for the caller to raise.

    Example:
        >>> print(listed(pathlib.Path('sweep.yaml'), ['method: wrong']))
        sweep.yaml: 1 fault; nothing was started
          method: wrong
    """
    count = '1 fault' if len(faults) == 1 else f'{len(faults)} faults'
    return ConfigError(f'{path}: {count}; nothing was started\n' + '\n'.join(f'  {fault}' for fault in faults))


def _check_name(written: dict[str, Any]) -> list[str]:
    name = written.get('name')  # used in the names of the folder and of the trials' runs
    text = str(name) if isinstance(name, (str, int)) else ''
    tame = text.isprintable() and not set(text) & set('/\\{}') and text.strip('. ') and len(text.encode()) < 200
    if name is None or tame:
        return []
    return [f'name: expected a name without slashes and braces, got {name!r}']


def _check_method(written: dict[str, Any]) -> list[str]:
    method = written.get('method')
    if method in METHODS:
        return []
    return [f'method: expected one of {", ".join(METHODS)}, got {method!r}{nearest(str(method), METHODS)}']


def _check_metric(written: dict[str, Any]) -> list[str]:
    metric = written.get('metric')
    if not isinstance(metric, dict) or not isinstance(metric.get('name'), str):
        said = 'expected {name: metrics/eval/MulticlassAccuracy, goal: maximize} or the like'
        return [f'metric: {said}, got {metric!r}']
    faults = [f'metric.{key}: unknown key{nearest(str(key), METRIC_KEYS)}' for key in metric if key not in METRIC_KEYS]
    goal, target = metric.get('goal', 'minimize'), metric.get('target')
    if goal not in GOALS:
        faults.append(f'metric.goal: expected minimize or maximize, got {goal!r}{nearest(str(goal), GOALS)}')
    if target is not None and not is_number(target):
        faults.append(f'metric.target: expected a number, got {target!r}')
    return faults


def _check_stopping(written: dict[str, Any]) -> list[str]:
    stopping = written.get('early_terminate')
    if stopping is None:
        return []
    kind = stopping.get('type') if isinstance(stopping, dict) else stopping
    if not isinstance(stopping, dict) or not isinstance(kind, str) or kind not in STOPPING_KEYS:
        return [f'early_terminate.type: expected hyperband or median, got {kind!r}{nearest(str(kind), STOPPING_KEYS)}']
    known = ('type', *STOPPING_KEYS[str(kind)])
    unknown = [str(key) for key in stopping if key not in known]
    faults = [f'early_terminate.{key}: unknown key of {kind}{nearest(key, known)}' for key in unknown]
    faults += [
        f'early_terminate.{key}: expected a whole number of {least} or more, {_up_to(stopping[key], key)}got '
        f'{stopping[key]!r}'
        for key, least in LEAST.items()
        if key in stopping and not (type(stopping[key]) is int and least <= stopping[key] <= MOST[key])
    ]
    if kind == 'hyperband' and 'min_iter' not in stopping and not {'max_iter', 's'} <= set(stopping):
        faults.append('early_terminate: hyperband needs min_iter, or max_iter and s; they count evaluations')
    return faults


def _up_to(value: Any, key: str) -> str:
    return f'up to {MOST[key]}, ' if type(value) is int and value > MOST[key] else ''


def _check_run_cap(written: dict[str, Any]) -> list[str]:
    cap = written.get('run_cap')
    if cap is None or (isinstance(cap, int) and not isinstance(cap, bool) and cap > 0):
        return []
    return [f'run_cap: expected a whole number of 1 or more, got {cap!r}']


_CHECKS: tuple[Callable[[dict[str, Any]], list[str]], ...] = (
    _check_name,
    _check_method,
    _check_metric,
    _check_stopping,
    _check_run_cap,
)


def _read_command(command: Any, offline: bool) -> tuple[str, list[str], list[str]]:
    """Returns the run's YAML, the fixed overrides, and the faults."""
    example = f'[composer-kd, train, yamls/digits/kd.yaml, "{ARGUMENTS}"]'
    words = [str(word) for word in command] if isinstance(command, list) else []
    if 'train' not in words or not words[words.index('train') + 1 :]:
        return '', [], [f'command: expected the run that is searched, as {example}; got {command!r}']
    launcher, rest = words[: words.index('train')], words[words.index('train') + 1 :]
    faults = []
    strange = [word for word in launcher if not LAUNCHERS.fullmatch(word)]
    if strange and offline:
        faults.append(
            f'command: a trial is one process here, so that {" ".join(strange)!r} before train cannot be; begin with '
            'composer-kd, or leave the launching to W&B (--wandb)'
        )
    if ARGUMENTS not in rest:
        faults.append(f'command: needs "{ARGUMENTS}", where W&B puts key=value for each parameter; as {example}')
    base, *fixed = [word for word in rest if word != ARGUMENTS]
    faults += [f'command: {word!r} is no override key=value' for word in fixed if '=' not in word]
    return base, fixed, faults
