"""Resolves names in a YAML file to classes and functions.

A bare name is looked up in the ``__all__`` of the modules of its scope; a dotted path is imported. Nothing has to be
registered: every class that these modules export has a bare name, and your own class is named by its dotted path.
"""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from composer_kd.errors import ConfigError, nearest

__all__ = ['SCOPES', 'Scope', 'import_path', 'known_names', 'resolve']

MOST_NAMES = 60  # the longest list of valid names in a message
EXPORTING = (
    'composer_kd',
    *(f'composer_kd.{room}' for room in ('losses', 'models', 'data', 'teachers', 'algorithms', 'callbacks')),
)
"""Packages whose public names are searched for a path from an older version."""


@dataclass(frozen=True)
class Scope:
    """The source of the names of one kind of component.

    Args:
        what: The kind of component, for messages.
        modules: Modules whose ``__all__`` is searched, in this order.
        base: Dotted path of the base class of all named classes; None accepts any callable.
        suffix: An ending that can be omitted: ``wandb`` names ``WandBLogger``.
        cheap: Whether construction is fast and free of side effects, so that the check does it as a dry run.
        also: Dotted paths of further classes that have a bare name.
        without: Names to leave out, because a YAML file cannot contain their arguments.
    """

    what: str
    modules: tuple[str, ...]
    base: str | None = None
    suffix: str = ''
    cheap: bool = True
    also: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def only(self) -> str | None:
        """The only name of the scope, which is not written in a YAML file; None if there are several names."""
        return None if self.modules else self.also[0].rpartition('.')[2]

    @property
    def a(self) -> str:
        """The kind of component with its article."""
        return f'{"an" if self.what[0] in "aeiou" else "a"} {self.what}'


SCOPES: dict[str, Scope] = {
    'model': Scope('model', ('composer_kd.models',), cheap=False, without=('IndexedClassifier',)),
    'dataset': Scope(
        'data set',
        ('composer_kd.data',),
        cheap=False,
        without=('HeldOut', 'ImageTensors', 'Indexed', 'PartlyLabelled', 'RepeatingSampler'),
    ),
    'loss': Scope('distillation loss', ('composer_kd.losses',)),
    'match': Scope('match', (), also=('composer_kd.matches.match.Match',)),
    'schedule': Scope(
        'schedule',
        ('composer.optim',),
        'composer.optim.ComposerScheduler',
        suffix='Scheduler',
        also=('composer_kd.schedules.Ramp',),
    ),
    'projector': Scope('projector', ('torch.nn',), 'torch.nn.Module'),
    'teacher': Scope(
        'kind of teacher',
        ('composer_kd.teachers',),
        suffix='Teacher',
        cheap=False,
        without=('Teacher',),
    ),
    'adapter': Scope('input adapter', ('composer_kd.teachers',), suffix='Adapter'),
    'optimizer': Scope('optimizer', ('composer.optim', 'torch.optim'), 'torch.optim.Optimizer'),
    'scheduler': Scope('scheduler', ('composer.optim',), 'composer.optim.ComposerScheduler', suffix='Scheduler'),
    'algorithm': Scope('algorithm', ('composer_kd.algorithms', 'composer.algorithms'), 'composer.core.Algorithm'),
    'callback': Scope('callback', ('composer.callbacks',), 'composer.core.Callback'),
    'logger': Scope('logger', ('composer.loggers',), 'composer.loggers.LoggerDestination', 'Logger', cheap=False),
}


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
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f'{path!r} is no dotted path: expected names with dots between them, as my_package.MyClass')
    for length in range(len(parts), 0, -1):
        module_name = '.'.join(parts[:length])
        try:
            found = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # A failed import inside the user's module is reported as such, instead of trying a shorter path.
            if error.name is None or not (module_name == error.name or module_name.startswith(f'{error.name}.')):
                raise ConfigError(f'{module_name!r} cannot be imported: {error}') from error
            continue
        return _follow(found, parts[length:], path)
    raise ConfigError(f'no module named {parts[0]!r} can be imported')


def _follow(found: Any, names: list[str], path: str) -> Any:
    """Follows attribute names, starting at a module."""
    for depth, name in enumerate(names, 1):
        if not hasattr(found, name):
            is_gone = inspect.ismodule(found) and depth < len(names)  # a removed module, followed by a name in it
            exported = _exported_as(path) if is_gone else None
            if exported is not None:
                return import_path(exported)
            raise ConfigError(f'{found.__name__!r} has no {name!r}{nearest(name, _public(found))}')
        found = getattr(found, name)
    return found


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
        thing = import_path(name)
        if not callable(thing):
            raise ConfigError(f'{name!r} is no {SCOPES[scope].what}: expected a class or function, got {thing!r}')
        return thing
    known = known_names(scope)
    if name in known:
        return known[name]
    suffix = SCOPES[scope].suffix.lower()
    loose = {_fold(key): known[key] for key in _spelt_alike_last(name, known)}
    for candidate in (_fold(name), _fold(name) + suffix):
        if candidate in loose:
            return loose[candidate]
    raise ConfigError(f'unknown {SCOPES[scope].what} {name!r}{_nearest(name, known, suffix)}')


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
