"""Checks values from a YAML file against Python annotations, and describes annotations in plain words."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import math
import os
import types
import typing
from collections.abc import Callable
from typing import Any

from composer.core import Callback, Time

__all__ = ['Parameter', 'describe', 'fits', 'parameters', 'returned']

_UNIONS = (typing.Union, types.UnionType)
_WORDS = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a string', type(None): 'null'}
_LISTS = (
    list,
    tuple,
    set,
    frozenset,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Parameter(typing.NamedTuple):
    """A parameter of a callable: its annotation, and whether it is required."""

    annotation: Any
    required: bool


def fits(value: Any, annotation: Any) -> bool:
    """Tells whether a YAML value can be passed to a parameter with this annotation.

    Args:
        value: None, bool, int, float, str, list or dict.
        annotation: A type as in a signature. Types that cannot be checked accept any value.

    Returns:
        Whether it fits. Integers fit ``float``; booleans fit neither ``int`` nor ``float``. A string must be a valid
        Composer time if the annotation contains ``Time``.

    Example:
        >>> fits(1, float), fits(True, float), fits('10 epochs', str | Time), fits('10ep', str | Time)
        (True, False, False, True)
    """
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin in _UNIONS:
        return any(fits(value, branch) for branch in _branches(arguments))
    if origin is typing.Literal:
        return any(value == option and (type(value) is type(option) or isinstance(option, str)) for option in arguments)
    kind = origin or annotation
    if kind in _LISTS:
        items = [item for item in arguments if item is not Ellipsis]
        return isinstance(value, list) and (not items or _items_fit(value, kind, arguments))
    if kind in _DICTS:
        return isinstance(value, dict) and (not arguments or all(fits(v, arguments[1]) for v in value.values()))
    return _fits_class(value, kind)


def describe(annotation: Any) -> str:
    """Describes in plain words what an annotation accepts.

    Args:
        annotation: A type as in a signature.

    Returns:
        A phrase such as ``"an integer or null"``.

    Example:
        >>> describe(int | None), describe(list[float])
        ('an integer or null', 'a list (each a number)')
    """
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return describe(arguments[0])
    if origin in _UNIONS:
        return ' or '.join(dict.fromkeys(describe(branch) for branch in _branches(arguments) if _writable(branch)))
    if origin is typing.Literal:
        return 'one of ' + ', '.join(repr(option) for option in arguments)
    kind = origin or annotation
    if kind in _LISTS:
        length = f' of {len(arguments)}' if kind is tuple and arguments and Ellipsis not in arguments else ''
        return f'a list{length}' + (f' (each {describe(arguments[0])})' if arguments else '')
    if kind in _DICTS:
        return 'a mapping'
    if isinstance(kind, type) and issubclass(kind, Time):
        return "a Composer time such as '10ep' or '500ba'"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return 'one of ' + ', '.join(repr(member.value) for member in kind)
    return _WORDS.get(kind, f'{getattr(kind, "__name__", kind)}, which a YAML file cannot hold')


def parameters(target: Any) -> tuple[dict[str, Parameter], bool]:
    """Lists the parameters of a callable that can be passed by keyword.

    Args:
        target: A class or function.

    Returns:
        The parameters by name, and whether any other keyword is accepted too (``**kwargs``).

    Example:
        >>> import torch
        >>> sorted(parameters(torch.nn.Flatten)[0])
        ['end_dim', 'start_dim']
    """
    function = target.__init__ if inspect.isclass(target) else target
    if function is Callback.__init__:
        return {}, False  # it ignores all its arguments, so a mistyped key would go unnoticed
    namespace = getattr(inspect.unwrap(function), '__globals__', {})
    found: dict[str, Parameter] = {}
    open_ended = False
    try:
        signature = inspect.signature(target)
    except ValueError:
        return {}, True  # a builtin without a signature
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            annotation = _evaluate(parameter.annotation, namespace)
            if parameter.default is None:
                annotation = typing.Optional[annotation] if annotation is not Any else Any  # noqa: UP045
            required = parameter.default is parameter.empty or _is_required_sentinel(parameter.default)
            found[name] = Parameter(annotation, required)
    return found, open_ended


def returned(function: Any) -> Any:
    """Returns the class that a function is annotated to return; None if it says nothing that is a class.

    Args:
        function: A function.

    Example:
        >>> from composer_kd.models import resnet20
        >>> returned(resnet20).__name__
        'CifarResNet'
    """
    try:
        annotation = inspect.signature(function).return_annotation
    except (ValueError, TypeError):
        return None  # a builtin without a signature
    evaluated = _evaluate(annotation, getattr(inspect.unwrap(function), '__globals__', {}))
    kind = typing.get_origin(evaluated) or evaluated
    if kind in _UNIONS:
        return None  # one of several
    return kind if isinstance(kind, type) and kind is not Any else None  # Any is a class since Python 3.11


def _is_required_sentinel(default: Any) -> bool:
    return repr(default) == '<required parameter>'  # torch.optim.optimizer.required, which is private and untyped


def _evaluate(annotation: Any, namespace: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, namespace)  # like typing.get_type_hints, for one annotation
    except (NameError, AttributeError, TypeError, SyntaxError):
        return Any  # a name that exists for type checkers only: accept any value


def _branches(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    # Union[str, Time] means a string that is a time, so `str` must not accept strings that Time rejects.
    if any(isinstance(branch, type) and issubclass(branch, Time) for branch in arguments):
        return tuple(branch for branch in arguments if branch is not str)
    return arguments


def _writable(branch: Any) -> bool:
    kind = typing.get_origin(branch) or branch
    if kind in _WORDS or kind in _LISTS or kind in _DICTS or kind in (typing.Literal, typing.Annotated):
        return True
    return isinstance(kind, type) and issubclass(kind, (Time, enum.Enum))


def _items_fit(value: list[Any], kind: Any, arguments: tuple[Any, ...]) -> bool:
    if kind is tuple and Ellipsis not in arguments:
        return len(value) == len(arguments) and all(fits(v, a) for v, a in zip(value, arguments))
    return all(fits(item, arguments[0]) for item in value)


def _fits_class(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind is Any or kind is object or not isinstance(kind, type):
        return True  # such as a TypeVar or a string, which cannot be checked
    if kind in _EXACTLY:
        return _EXACTLY[kind](value)
    judge = next((judge for family, judge in _FAMILIES if issubclass(kind, family)), None)
    if judge is not None:
        return judge(value, kind)
    is_interface = getattr(kind, '_is_protocol', False) or kind is collections.abc.Callable
    return not is_interface and isinstance(value, kind)


def _is_time(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        amount = Time.from_timestring(value).value
    except (ValueError, KeyError, TypeError, OverflowError):  # '10xp', '1.5ep', '1e400ba'
        return False
    return math.isfinite(amount) and abs(amount) < 2**63


def _is_member(value: Any, kind: Any) -> bool:
    return isinstance(value, str) and value.lower() in [str(member.value).lower() for member in kind]


# For isinstance, True is an int, and an int is not a float.
_EXACTLY: dict[type, Callable[[Any], bool]] = {
    type(None): lambda value: value is None,
    float: lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    int: lambda value: isinstance(value, int) and not isinstance(value, bool),
}
# Classes whose objects are written as strings in a YAML file.
_FAMILIES: tuple[tuple[type, Callable[[Any, Any], bool]], ...] = (
    (Time, lambda value, kind: _is_time(value)),
    (enum.Enum, _is_member),
    (os.PathLike, lambda value, kind: isinstance(value, str)),
)
