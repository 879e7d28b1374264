"""What an algorithm was given, as plain values that trackers can show and compare, and how trackers get them."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from composer.core import Time
from composer.loggers import LoggerDestination
from torch import Tensor, nn

from composer_kd.presentation.addresses import Secret, without_credentials
from composer_kd.presentation.settings import leaves
from composer_kd.teachers import Teacher
from composer_kd.teachers.base import module_of

__all__ = ['arguments', 'log_settings', 'plain', 'teacher_settings']

_DEEPEST = 6  # levels of objects within objects
_LONGEST = 100  # elements of a list
_NOT_TAKEN = re.compile(r'[^\w./ :-]')  # MLflow refuses all settings of a call for one such key


def arguments(made: type, given: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor by their names, with its defaults.

    Args:
        made: The class.
        given: The positional arguments.
        named: The arguments by name.

    Returns:
        The arguments; empty if they are not those of the constructor, which then says so itself.

    Example:
        >>> arguments(nn.Dropout, [0.1], {})
        {'p': 0.1, 'inplace': False}
    """
    try:
        bound = inspect.signature(made).bind(*given, **named)
    except TypeError:
        return {}
    bound.apply_defaults()
    return dict(bound.arguments)


def plain(value: Any, depth: int = 0) -> Any:
    """A setting as a YAML file would have it: numbers, texts, lists, and ``{'name': ..., its options}`` for objects.

    The options of an object are the arguments of its constructor that it keeps under their own names. Options that are
    ``None``, and arrays, are left out; addresses lose their keys.

    Args:
        value: The setting.
        depth: How many objects it is within.

    Example:
        >>> from composer_kd import KLDivergence, Match, Ramp
        >>> plain(KLDivergence(temperature=4.0))
        {'name': 'KLDivergence', 'temperature': 4.0, 'softmax_dim': -1}
        >>> plain(Match(nn.functional.mse_loss, weight=Ramp(1.0, 0.0)))['weight']
        {'name': 'Ramp', 'initial': 1.0, 'final': 0.0, 'end': '1.0dur', 'start': '0.0dur'}
    """
    if isinstance(value, Secret):
        return value.written
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, Time):
        return value.to_timestring()
    if depth >= _DEEPEST:
        return _name(value)
    if isinstance(value, Mapping):
        return _options(value, depth)
    if isinstance(value, Sequence):
        return [plain(one, depth + 1) for one in value] if len(value) <= _LONGEST else f'{len(value)} values'
    if isinstance(value, functools.partial):
        return {'name': _name(value.func), **_options(value.keywords, depth)}
    kept = _kept(value)
    return {**({} if 'name' in kept else {'name': _name(value)}), **_options(kept, depth)}


def teacher_settings(teacher: Teacher) -> dict[str, Any]:
    """What a teacher is: its name and settings, and the class and number of parameters of its model.

    Example:
        >>> from composer_kd import FrozenTeacher
        >>> teacher_settings(FrozenTeacher(nn.Linear(4, 2), name='big'))
        {'name': 'big', 'model': {'name': 'Linear', 'parameters': 10}}
    """
    kept = {key: value for key, value in _kept(teacher).items() if key != 'model'}
    found = {'name': teacher.name, **_options(kept, 1)}
    module = module_of(teacher)
    if module is not None and not getattr(teacher, 'is_student', False):
        found['model'] = {'name': type(module).__name__, 'parameters': sum(one.numel() for one in module.parameters())}
    return found


def log_settings(destinations: Iterable[LoggerDestination], settings: Mapping[str, Any]) -> None:
    """Gives settings to every logger, as numbers and words by dotted key, which is what all of them take.

    Args:
        destinations: The loggers.
        settings: The settings, nested as in a YAML file.

    Warns:
        UserWarning: If a logger does not take them, as a service that knows others from before a resume. The run
            goes on.
    """
    flat = {
        _NOT_TAKEN.sub('_', key): value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in leaves(settings).items()
    }
    for destination in destinations:
        try:
            destination.log_hyperparameters(dict(flat))
        except Exception as error:  # a service may refuse, for example a value that differs from before a resume
            reason = ' '.join(str(error).split())[:300]
            warnings.warn(f'{type(destination).__name__} did not take the settings of the run: {reason}', stacklevel=2)


def _options(found: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    return {
        str(key): plain(value, depth + 1)
        for key, value in found.items()
        if value is not None and not isinstance(value, Tensor) and not hasattr(value, '__array__')
    }


def _kept(thing: Any) -> dict[str, Any]:
    """The arguments of an object's constructor that are its attributes; none of functions and classes."""
    if isinstance(thing, type) or inspect.isroutine(thing):
        return {}
    try:
        names = list(inspect.signature(type(thing)).parameters)
    except (TypeError, ValueError):  # some builtins have no signature
        return {}
    found = {}
    for name in names:
        value = getattr(thing, name, None)
        if not inspect.isroutine(value) or name in vars(thing):
            found[name] = _name(value) if isinstance(value, nn.ModuleList) else value
    return found


def _name(thing: Any) -> str:
    return getattr(thing, '__name__', type(thing).__name__)
