"""The search space: reads the ``parameters`` of W&B's sweep format and draws values with Optuna."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from composer_kd.errors import nearest

__all__ = ['Choice', 'Parameter', 'Range', 'is_number', 'read_parameters']

NAME = re.compile(r'[A-Za-z_][A-Za-z0-9_.-]*')  # the names of parameters that W&B accepts
MOST_EXPONENT = 700  # of e; a little more overflows a float
MOST_STEPS = 1000  # of one parameter in a grid
MOST = 2**63
MOST_MULTIPLES = 10**15  # of q; floats count no further


class Parameter(Protocol):
    """A dotted key of the run's YAML with its possible values."""

    @property
    def key(self) -> str:
        """The dotted key."""

    def suggest(self, trial: Any) -> Any:
        """Returns the value in an Optuna trial; draws it if the trial has none yet."""

    def representatives(self) -> list[Any]:
        """Returns values for checks of the sweep: every choice, or both ends of a range."""

    def grid(self) -> list[Any] | None:
        """Returns the values of the parameter in Optuna's grid; ``None`` if it has no finite grid."""


@dataclass(frozen=True)
class Choice:
    """A parameter with a list of values of any type that YAML has.

    Args:
        key: The dotted key.
        values: The values; a single value makes a constant.
    """

    key: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[Any]:
        """The values as Optuna stores them: scalars unchanged, all others as JSON."""
        return [value if _is_scalar(value) else json.dumps(value) for value in self.values]

    def suggest(self, trial: Any) -> Any:
        """Returns the value in an Optuna trial; draws it if the trial has none yet."""
        return self.values[self.labels.index(trial.suggest_categorical(self.key, self.labels))]

    def representatives(self) -> list[Any]:
        """Returns all values."""
        return list(self.values)

    def grid(self) -> list[Any] | None:
        """Returns all values, as Optuna stores them."""
        return self.labels


@dataclass(frozen=True)
class Range:
    """A numeric parameter with a range of values.

    Args:
        key: The dotted key.
        low: The lower bound, inclusive.
        high: The upper bound, inclusive.
        log: Whether values are drawn uniformly on a logarithmic scale.
        step: The values are multiples of this number; ``None`` for any number in the range.
    """

    key: str
    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def integer(self) -> bool:
        """Whether the values are integers."""
        return isinstance(self.step, int)

    def suggest(self, trial: Any) -> Any:
        """Returns the value in an Optuna trial; draws it if the trial has none yet."""
        low, high = self._ends()
        if self.step is None:
            return trial.suggest_float(self.key, self.low, self.high, log=self.log)
        if self.log:  # Optuna has no steps on a logarithmic scale, so the drawn number is rounded
            drawn = trial.suggest_float(self.key, low, high, log=True)
            return self._multiple(min(max(round(drawn / self.step), round(low / self.step)), round(high / self.step)))
        if self.integer:
            return trial.suggest_int(self.key, low, high, step=self.step)
        return self._multiple(round(trial.suggest_float(self.key, low, high, step=self.step) / self.step))

    def representatives(self) -> list[Any]:
        """Returns the least and the greatest value."""
        low, high = self._ends()
        return [low] if low == high else [low, high]

    def grid(self) -> list[Any] | None:
        """Returns all multiples of the step; ``None`` if there is no step, a logarithmic scale or too many values."""
        if self.step is None or self.log:
            return None
        low, high = (round(end / self.step) for end in self._ends())
        return [self._multiple(count) for count in range(low, high + 1)] if high - low < MOST_STEPS else None

    def _ends(self) -> tuple[Any, Any]:
        if self.step is None:
            return self.low, self.high
        least = math.ceil(self.low / self.step - 1e-9)
        most = math.floor(self.high / self.step + 1e-9)
        return self._multiple(max(least, 1) if self.log else least), self._multiple(most)

    def _multiple(self, count: int) -> Any:
        assert self.step is not None
        return count * self.step if self.integer else float(f'{count * self.step:.12g}')  # 0.3, not 0.30000000000000004


@dataclass(frozen=True)
class _Distribution:
    """The keys of one of W&B's distributions, and the function that makes a parameter from them."""

    required: tuple[str, ...]
    make: Callable[[str, dict[str, Any]], Choice | Range]
    optional: tuple[str, ...] = ()
    positive: bool = False  # whether min must be positive


def _exponents(key: str, spec: dict[str, Any]) -> Range:
    step = spec.get('q', 1) if spec['distribution'].startswith('q_') else None
    return Range(key, math.exp(spec['min']), math.exp(spec['max']), True, step)


_ENDS = ('min', 'max')
_DISTRIBUTIONS: dict[str, _Distribution] = {
    'constant': _Distribution(('value',), lambda key, spec: Choice(key, (spec['value'],))),
    'categorical': _Distribution(('values',), lambda key, spec: Choice(key, tuple(spec['values']))),
    'int_uniform': _Distribution(_ENDS, lambda key, spec: Range(key, spec['min'], spec['max'], step=1)),
    'uniform': _Distribution(_ENDS, lambda key, spec: Range(key, float(spec['min']), float(spec['max']))),
    'q_uniform': _Distribution(
        _ENDS, lambda key, spec: Range(key, spec['min'], spec['max'], step=spec.get('q', 1)), ('q',)
    ),
    'log_uniform': _Distribution(_ENDS, _exponents),
    'log_uniform_values': _Distribution(
        _ENDS, lambda key, spec: Range(key, float(spec['min']), float(spec['max']), True), positive=True
    ),
    'q_log_uniform': _Distribution(_ENDS, _exponents, ('q',)),
    'q_log_uniform_values': _Distribution(
        _ENDS, lambda key, spec: Range(key, spec['min'], spec['max'], True, spec.get('q', 1)), ('q',), positive=True
    ),
}
# Only W&B's server draws from these: they are unbounded or weighted, which Optuna's samplers do not support.
_ONLY_WANDB = (
    *('categorical_w_probabilities', 'normal', 'q_normal', 'log_normal', 'q_log_normal', 'beta', 'q_beta'),
    *('inv_log_uniform', 'inv_log_uniform_values'),
)


def read_parameters(written: Any, offline: bool = True) -> tuple[list[Parameter], list[str]]:
    """Reads the ``parameters`` of a sweep.

    Args:
        written: A mapping from dotted keys to ``{value: ...}``, ``{values: [...]}`` or ``{min: ..., max: ...}``.
        offline: Whether Optuna draws the values. A distribution that only W&B's server supports is then a fault;
            otherwise its parameter is omitted.

    Returns:
        The parameters, each key before the keys below it; and the faults, one line each.

    Example:
        >>> read_parameters({'seed': {'min': 1, 'max': 3}, 'optimizer.lr': {'distribution': 'log_unform'}})[1][0]
        "parameters.optimizer.lr.distribution: unknown 'log_unform'; did you mean 'log_uniform' or \
'q_log_uniform' or 'q_uniform'?"
    """
    if not isinstance(written, dict) or not written:
        return [], [f'parameters: expected a mapping from dotted keys of the run to their values, got {written!r}']
    found, faults = [], []
    for key, spec in written.items():
        parameter, wrong = _read(str(key), spec, offline)
        faults += [f'parameters.{key}{fault}' for fault in wrong]
        if parameter is not None:
            found.append(parameter)
    # Overrides are applied in this order: the optimizer first, then its learning rate.
    return sorted(found, key=lambda parameter: parameter.key.count('.')), faults


def _read(key: str, spec: Any, offline: bool) -> tuple[Parameter | None, list[str]]:
    if not NAME.fullmatch(key):
        return None, [': expected a dotted key of the run, of letters, digits, dots, hyphens and underscores']
    if not isinstance(spec, dict):
        return None, [f': expected {{value: ...}}, {{values: [...]}} or {{min: ..., max: ...}}, got {spec!r}']
    if 'parameters' in spec:
        return None, [': nested parameters would replace all that the run has there; write dotted keys instead']
    name = spec.get('distribution') or _implied(spec)
    if name in _ONLY_WANDB:
        wrong = f".distribution: only W&B's server draws from {name!r}; offline there are {', '.join(_DISTRIBUTIONS)}"
        return None, [wrong] if offline else []
    if not isinstance(name, str) or name not in _DISTRIBUTIONS:
        return None, [f'.distribution: unknown {name!r}{nearest(str(name), _DISTRIBUTIONS)}']
    distribution = _DISTRIBUTIONS[name]
    faults = _faults(spec, distribution, name)
    return (None, faults) if faults else (distribution.make(key, spec), [])


def _implied(spec: dict[str, Any]) -> str:
    if 'value' in spec or 'values' in spec:
        return 'constant' if 'value' in spec else 'categorical'
    return 'int_uniform' if all(_is_integer(spec.get(end)) for end in _ENDS) else 'uniform'


def _faults(spec: dict[str, Any], distribution: _Distribution, name: str) -> list[str]:
    allowed = ('distribution', *distribution.required, *distribution.optional)
    faults = [f'.{key}: unknown key of {name}{nearest(str(key), allowed)}' for key in spec if key not in allowed]
    faults += [f'.{key}: required for {name}, and missing' for key in distribution.required if key not in spec]
    values = spec.get('values', [None])
    if not isinstance(values, list) or not values:
        faults.append(f'.values: expected a list of one value or more, got {values!r}')
    elif any(value in values[:i] for i, value in enumerate(values)):
        faults.append(f'.values: a value is there twice: {values!r}')
    numbers = [key for key in ('min', 'max', 'q') if key in spec and key in allowed]
    bad = [key for key in numbers if not is_number(spec[key])]
    faults += [f'.{key}: expected a number, got {spec[key]!r}{_hint(spec[key])}' for key in bad]
    if faults or distribution.required != _ENDS:
        return faults
    return _faults_of_range(spec, distribution, name)


def _faults_of_range(spec: dict[str, Any], distribution: _Distribution, name: str) -> list[str]:
    low, high, step = spec['min'], spec['max'], spec.get('q', 1)
    if name == 'int_uniform' and not (_is_integer(low) and _is_integer(high)):
        return [f'.min: expected integers for {name}, got {low!r} and {high!r}']
    if not math.isfinite(float(high) - float(low)):
        return [f'.max: the range from {low!r} to {high!r} is too large']
    if low >= high:
        return [f'.max: expected more than min, {low!r}; got {high!r}']
    if distribution.positive and low <= 0:
        return [f'.min: expected a positive number for {name}, got {low!r}']
    if step <= 0:
        return [f'.q: expected a positive number, got {step!r}']
    if name.endswith('log_uniform') and high > MOST_EXPONENT:
        return [f'.max: expected an exponent of e for {name}, got {high!r}; for the values themselves: {name}_values']
    if name.endswith('log_uniform') and low < -MOST_EXPONENT:
        return [f'.min: expected an exponent of e for {name}, got {low!r}; for the values themselves: {name}_values']
    ends = (math.exp(low), math.exp(high)) if name.endswith('log_uniform') else (low, high)
    if distribution.optional and max(map(abs, ends)) / MOST_MULTIPLES > step:
        return [f'.q: {step!r} is too small for numbers up to {max(map(abs, ends)):g}']
    if distribution.optional and math.floor(ends[1] / step) < math.ceil(ends[0] / step):
        return [f'.q: no multiple of {step!r} lies between {low!r} and {high!r}']
    return []


def _hint(value: Any) -> str:
    """Suggests a form that YAML 1.1, which W&B uses, reads as a number: it reads 1e-4 as text."""
    try:
        return f'; in YAML write {float(value):.1e}' if isinstance(value, str) else ''
    except ValueError:
        return ''


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of a size that files and tables can hold.

    Example:
        >>> is_number(0.1), is_number(True), is_number(float('nan')), is_number(10**20)
        (True, False, False, False)
    """
    return (_is_integer(value) and abs(value) < MOST) or (isinstance(value, float) and math.isfinite(value))
