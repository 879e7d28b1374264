"""Resolves names in a YAML file to classes and functions.

A bare name is looked up in the ``__all__`` of the modules of its scope; a dotted path is imported. Nothing has to be
registered: every class that these modules export has a bare name, and your own class is named by its dotted path.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, cast

from composer_kd.config import trust
from composer_kd.config.scopes import SCOPES, Scope
from composer_kd.config.typecheck import returned
from composer_kd.errors import ConfigError, nearest, stopped_by

__all__ = ['SCOPES', 'Scope', 'function_at', 'import_path', 'is_function_itself', 'is_shown', 'known_names', 'resolve']

MOST_NAMES = 60  # the longest list of valid names in a message
EXPORTING = (
    'composer_kd',
    *(f'composer_kd.{room}' for room in ('losses', 'models', 'data', 'teachers', 'algorithms', 'callbacks')),
)
"""Packages whose public names are searched for a path from an older version."""


def import_path(path: str) -> Any:
    """Imports the object at a dotted path.

    A path into a module of an older version of this package is resolved to the package that exports the object today.

    Args:
        path: The dotted path, such as ``'torch.nn.MSELoss'``.

    Returns:
        The module, class, function or constant.

    Raises:
        ConfigError: If no prefix of the path can be imported, or an attribute is missing.

    Example:
        >>> import_path('torch.nn.MSELoss').__name__
        'MSELoss'
    """
    parts = path.split('.')
    if not all(part.isidentifier() for part in parts) or any(part.startswith('__') for part in parts):
        raise ConfigError(f'{path!r} is no dotted path: expected names with dots between them, as my_package.MyClass')
    trust.current().require(path, parts[0])
    for length in range(len(parts), 0, -1):
        module_name = '.'.join(parts[:length])
        try:
            found = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # A failed import inside the user's module is reported as such, instead of trying a shorter path.
            if error.name is None or not (module_name == error.name or module_name.startswith(f'{error.name}.')):
                raise ConfigError(f'{module_name!r} cannot be imported: {error}') from error
            continue
        except (Exception, SystemExit) as error:  # the user's module may raise any error, or end the process
            if stopped_by(error) is not None:
                raise
            raise ConfigError(f'{module_name!r} cannot be imported: {type(error).__name__}: {error}') from error
        return _follow(found, parts[length:], path)
    raise ConfigError(f'no module named {parts[0]!r} can be imported')


@cache
def function_at(path: str) -> Callable[..., Any]:
    """Imports a function for a key that holds a dotted path; the check does so first, and the run gets what it found.

    Raises:
        ConfigError: If the path leads to nothing that can be called, or may not be imported.

    Example:
        >>> function_at('torch.nn.functional.mse_loss').__name__
        'mse_loss'
    """
    found = import_path(path)
    if not callable(found):
        raise ConfigError(f'expected the dotted path of a function, got {path!r}')
    return cast(Callable[..., Any], found)


def _follow(found: Any, names: list[str], path: str) -> Any:
    """Follows attribute names, starting at a module; every step must stay in packages that may be named."""
    for depth, name in enumerate(names, 1):
        try:
            following = getattr(found, name)
        except AttributeError as error:
            is_gone = inspect.ismodule(found) and depth < len(names)  # a removed module, followed by a name in it
            exported = _exported_as(path) if is_gone else None
            if exported is not None:
                return import_path(exported)
            label = getattr(found, '__name__', type(found).__name__)
            raise ConfigError(f'{label!r} has no {name!r}{nearest(name, _public(found))}') from error
        except Exception as error:  # packages that import lazily raise errors of their own
            raise ConfigError(f'{path!r} cannot be imported: {type(error).__name__}: {error}') from error
        found = following
        origin = _origin(found)
        if origin is not None:
            trust.current().require(path, origin)
    return found


def _origin(thing: Any) -> str | None:
    """The package that a module, class or function comes from; None for other objects, which a module made itself."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    if not (inspect.ismodule(thing) or inspect.isclass(thing) or inspect.isroutine(thing)):
        return None
    name = thing.__name__ if inspect.ismodule(thing) else getattr(thing, '__module__', None)
    return name.partition('.')[0] if isinstance(name, str) else None


@cache
def _exported_as(path: str) -> str | None:
    """The public path of an object from a removed module of an older version; warns once per path."""
    name = path.rpartition('.')[2]
    for room in EXPORTING if path.startswith('composer_kd.') else ():
        if name in importlib.import_module(room).__all__:
            warnings.warn(f'{path} has moved: write {room}.{name}', FutureWarning, stacklevel=2)
            return f'{room}.{name}'
    return None


@cache
def known_names(scope: str) -> dict[str, Any]:
    """Lists the bare names of a scope.

    Args:
        scope: A key of ``SCOPES``.

    Returns:
        The class or function of each name; if two modules export the same name, that of the first module.

    Example:
        >>> sorted(known_names('optimizer'))[:3]
        ['ASGD', 'Adadelta', 'Adafactor']
    """
    rule = SCOPES[scope]
    base = import_path(rule.base) if rule.base else None
    found: dict[str, Any] = {path.rpartition('.')[2]: import_path(path) for path in rule.also}
    for module_name in rule.modules:
        module = importlib.import_module(module_name)
        for name in _public(module):
            thing = getattr(module, name)
            if name not in rule.without and _belongs(thing, name, base, rule):
                found.setdefault(name, thing)
    return found


def resolve(scope: str, name: str) -> Callable[..., Any]:
    """Finds the class or function that a name refers to in a scope.

    Args:
        scope: A key of ``SCOPES``.
        name: A bare name, in any case, with or without underscores and the scope's suffix; or a dotted path.

    Returns:
        The class or function.

    Raises:
        ConfigError: If the name is unknown; lists the nearest valid names.

    Example:
        >>> resolve('scheduler', 'cosine_annealing').__name__
        'CosineAnnealingScheduler'
        >>> resolve('optimizer', 'SDG')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: unknown optimizer 'SDG'; did you mean 'SGD'?
    """
    if '.' in name:
        return _of_kind(scope, import_path(name), name)
    known = known_names(scope)
    if name in known:
        return known[name]
    suffix = SCOPES[scope].suffix.lower()
    loose = {_fold(key): known[key] for key in _spelt_alike_last(name, known)}
    for candidate in (_fold(name), _fold(name) + suffix):
        if candidate in loose:
            return loose[candidate]
    raise ConfigError(f'unknown {SCOPES[scope].what} {name!r}{_nearest(name, known, suffix)}')


def is_function_itself(scope: str, target: Any) -> bool:
    """Tells whether a name means the function itself, not its return value: ``kd_loss_fn: my.module.my_loss``.

    Args:
        scope: A key of ``SCOPES``.
        target: The class or function that the name resolves to.

    Returns:
        True for a loss, adapter, scheduler or schedule that is a function; all others are called to build an object.

    Example:
        >>> import torch
        >>> is_function_itself('loss', torch.nn.functional.mse_loss), is_function_itself('loss', torch.nn.MSELoss)
        (True, False)
    """
    return SCOPES[scope].itself is not None and not inspect.isclass(target)


def is_shown(scope: str, target: Any) -> bool:
    """Tells whether calling a thing is known to give a component of its scope, before it is called.

    Args:
        scope: A key of ``SCOPES``.
        target: The class or function that a name resolves to.

    Returns:
        True for classes of the kind, functions that are the component themselves, bare names, and functions annotated
        to return the kind; False for functions that say nothing, which are called only to build a run.

    Example:
        >>> import torch
        >>> is_shown('optimizer', torch.optim.SGD), is_shown('callback', lambda: None)
        (True, False)
    """
    if inspect.isclass(target):
        return _is_class_of(scope, target)
    if is_function_itself(scope, target) or any(target is known for known in known_names(scope).values()):
        return True
    kind = returned(target)
    owner = getattr(target, '__self__', None)
    return _is_class_of(scope, kind if kind is not None else owner)


def _of_kind(scope: str, thing: Any, name: str) -> Callable[..., Any]:
    """Refuses what cannot be a component of a scope, before anything calls it."""
    rule = SCOPES[scope]
    if not callable(thing):
        raise ConfigError(f'{name!r} is no {rule.what}: expected a class or function, got {thing!r}')
    if inspect.isclass(thing):
        if not _is_class_of(scope, thing):
            expected = ' or '.join(rule.kind) or f'one with {" and ".join(rule.methods)}'
            raise ConfigError(f'{name!r} is no {rule.what}: expected a class derived from {expected}')
        return thing
    package = name.partition('.')[0]
    if rule.itself is not None:
        if not _takes(thing, rule.itself):
            said = 'student, teacher' if rule.itself > 1 else 'one argument'
            raise ConfigError(f'{name!r} is no {rule.what}: expected a function of ({said})')
        known = any(thing is one for one in known_names(scope).values()) or not (
            inspect.isfunction(thing) or inspect.ismethod(thing)
        )
        if not known and not trust.current().vouches_for(package) and returned(thing) is not import_path(rule.gives):
            raise _not_called(rule, name, thing)
        return thing
    constructs = inspect.ismethod(thing) and inspect.isclass(thing.__self__)  # such as AutoModel.from_pretrained
    returns = returned(thing)
    contradicts = returns is not None and returns is not object and not _may_be(scope, returns)
    if contradicts or not (constructs or is_shown(scope, thing) or trust.current().vouches_for(package)):
        raise _not_called(rule, name, thing)
    return thing


def _not_called(rule: Scope, name: str, thing: Any) -> ConfigError:
    returns = returned(thing)
    does = f'it returns {returns.__name__}' if returns is not None else 'it does not say what it returns'
    return ConfigError(
        f'{name!r} is not called as {rule.a}: {does}. Write a function of your own around it, or trust all of it: '
        f'{trust.current().remedy.format(package=name.partition(".")[0])}'
    )


def _is_class_of(scope: str, thing: Any) -> bool:
    rule = SCOPES[scope]
    if not inspect.isclass(thing):
        return False
    own = {name for each in thing.__mro__[:-1] for name in vars(each)}  # every class has __call__ by its metaclass
    return any(import_path(base) in thing.__mro__ for base in rule.kind) or own.issuperset(rule.methods or ('',))


def _may_be(scope: str, returns: type) -> bool:
    """Whether a function that returns this class, or one derived from it, may return a component of a scope."""
    if _is_class_of(scope, returns):
        return True
    return inspect.isabstract(returns) or getattr(returns, '_is_protocol', False) or not SCOPES[scope].kind


def _takes(function: Any, arguments: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return True  # a builtin without a signature
    slots = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(slots) >= arguments or any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())


def _public(module: Any) -> list[str]:
    # Not every torch version defines torch.optim.__all__; without it, take the names without a leading underscore.
    return list(getattr(module, '__all__', None) or [name for name in dir(module) if not name.startswith('_')])


def _belongs(thing: Any, name: str, base: type | None, rule: Scope) -> bool:
    if base is not None:
        return isinstance(thing, type) and issubclass(thing, base) and thing is not base
    return callable(thing) and (not rule.suffix or name.endswith(rule.suffix))


def _fold(name: str) -> str:
    return name.replace('_', '').lower()


def _spelt_alike_last(name: str, known: dict[str, Any]) -> list[str]:
    """Sorts names that match the case of ``name`` last: they win where a class and a function differ in case only."""
    return sorted(known, key=lambda key: key.islower() == name.islower())


def _nearest(name: str, known: dict[str, Any], suffix: str) -> str:
    # YAML keys are snake_case, classes CamelCase: compares without case, underscores and suffix, and shows real names.
    shown = {_fold(key).removesuffix(suffix): key for key in _spelt_alike_last(name, known)}
    clause = nearest(_fold(name).removesuffix(suffix), shown)
    if 'did you mean' not in clause:
        return nearest(name, known) if len(known) <= MOST_NAMES else '; other things are named by their dotted path'
    return re.sub(r"'([^']+)'", lambda match: repr(shown[match[1]]), clause)
