"""Imports what a dotted path leads to, along packages that a YAML may name."""

from __future__ import annotations

import functools
import importlib
import inspect
import warnings
from functools import cache
from typing import Any

from composer_kd.config import trust
from composer_kd.errors import ConfigError, nearest, stopped_by

__all__ = ['import_path', 'origin_of', 'public_names']

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
        ConfigError: If no prefix of the path can be imported, an attribute is missing, or it is private to a package
            that everybody may name.

    Example:
        >>> import_path('torch.nn.MSELoss').__name__
        'MSELoss'
    """
    parts = path.split('.')
    if not all(part.isidentifier() for part in parts) or any(part.startswith('__') for part in parts):
        raise ConfigError(f'{path!r} is no dotted path: expected names with dots between them, as my_package.MyClass')
    trust.current().require(path, parts[0])
    for part in parts[1:]:
        _require_public(path, parts[0], part)
    trust.make_importable(parts[0])
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


def origin_of(thing: Any) -> str | None:
    """The package that a module, class or function comes from, whatever it is reached through.

    Returns:
        None for other objects, which a module made itself.

    Example:
        >>> import torch
        >>> origin_of(torch.nn.MSELoss), origin_of(torch.nn.functional.mse_loss), origin_of(torch.float32)
        ('torch', 'torch', None)
    """
    while isinstance(thing, functools.partial):
        thing = thing.func
    if not (inspect.ismodule(thing) or inspect.isclass(thing) or inspect.isroutine(thing)):
        return None
    name = thing.__name__ if inspect.ismodule(thing) else getattr(thing, '__module__', None)
    return name.partition('.')[0] if isinstance(name, str) else None


def public_names(module: Any) -> list[str]:
    """The names that a module exports, for lists of valid names."""
    # Not every torch version defines torch.optim.__all__; without it, take the names without a leading underscore.
    return list(getattr(module, '__all__', None) or [name for name in dir(module) if not name.startswith('_')])


def _follow(found: Any, names: list[str], path: str) -> Any:
    """Follows attribute names, starting at a module; every step must stay in packages that may be named."""
    package = path.partition('.')[0]
    for depth, name in enumerate(names, 1):
        _require_public(path, package, name)
        try:
            following = getattr(found, name)
        except AttributeError as error:
            is_gone = inspect.ismodule(found) and depth < len(names)  # a removed module, followed by a name in it
            exported = _exported_as(path) if is_gone else None
            if exported is not None:
                return import_path(exported)
            label = getattr(found, '__name__', type(found).__name__)
            raise ConfigError(f'{label!r} has no {name!r}{nearest(name, public_names(found))}') from error
        except Exception as error:  # packages that import lazily raise errors of their own
            raise ConfigError(f'{path!r} cannot be imported: {type(error).__name__}: {error}') from error
        found = following
        origin = origin_of(found)
        if origin is not None:
            trust.current().require(path, origin)
            package = origin
    return found


def _require_public(path: str, package: str, name: str) -> None:
    """Refuses what is private to a package that everybody may name: there are compilers of strings among it."""
    if name.startswith('_') and not trust.current().vouches_for(package):
        raise ConfigError(f'{path!r} is not imported: {name!r} is private to {package!r}')


@cache
def _exported_as(path: str) -> str | None:
    """The public path of an object from a removed module of an older version; warns once per path."""
    name = path.rpartition('.')[2]
    for room in EXPORTING if path.startswith('composer_kd.') else ():
        if name in importlib.import_module(room).__all__:
            warnings.warn(f'{path} has moved: write {room}.{name}', FutureWarning, stacklevel=2)
            return f'{room}.{name}'
    return None
