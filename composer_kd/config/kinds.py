"""What makes a class or function a component of a scope, decided before anything calls it.

Your own packages, and those that ``allow_imports`` names, are believed: there a class is of a kind by its base class or
its methods, and a function that says nothing of what it returns is called to build a run. The packages that everybody
may name also hold functions that run code in a string or a file, such as ``torch.hub.load``. Of these packages a class
must have the base class, and a function must be annotated to return it, and be of a package that builds such things.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

from composer_kd.config.bare_names import has_name
from composer_kd.config.dotted_paths import import_path, origin_of
from composer_kd.config.scopes import SCOPES, Scope
from composer_kd.config.trust import current
from composer_kd.config.typecheck import returned
from composer_kd.errors import ConfigError

__all__ = ['is_function_itself', 'is_shown', 'require_kind']

OURS = 'composer_kd'
BUILDERS = (OURS, 'composer', 'torchvision', 'timm')
"""Those packages that everybody may name whose functions build models and other components."""


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
        True for classes of the kind, functions that are the component themselves, bare names, and functions of your own
        or of allowed packages that are annotated to return the kind; False for functions that say nothing, and for all
        others of the packages that everybody may name, which may fetch or unpickle weights: only a run calls them.

    Example:
        >>> import torch
        >>> is_shown('optimizer', torch.optim.SGD), is_shown('callback', lambda: None)
        (True, False)
    """
    if inspect.isclass(target):
        return _is_class_of(scope, target)
    if is_function_itself(scope, target) or has_name(scope, target):
        return True
    package = origin_of(target)
    if package is None or not current().vouches_for(package):
        return False
    kind = returned(target)
    return _is_class_of(scope, kind if kind is not None else getattr(target, '__self__', None))


def require_kind(scope: str, thing: Any, name: str) -> Callable[..., Any]:
    """Refuses what cannot be a component of a scope, before anything calls it.

    Args:
        scope: A key of ``SCOPES``.
        thing: What a dotted path led to.
        name: The dotted path.

    Returns:
        The thing.

    Raises:
        ConfigError: If it is of another kind, or nothing shows its kind.
    """
    rule = SCOPES[scope]
    if _is_known(rule, thing):
        return thing
    if not callable(thing):
        raise ConfigError(f'{name!r} is no {rule.what}: expected a class or function, got {thing!r}')
    package = origin_of(thing) or name.partition('.')[0]
    believed = current().vouches_for(package)
    if inspect.isclass(thing):
        if not _is_class_of(scope, thing, believed or package == OURS):
            raise ConfigError(f'{name!r} is no {rule.what}: expected {_bases(rule, package)}')
        return thing
    if rule.itself is not None and not _takes(thing, rule.itself):
        raise ConfigError(f'{name!r} is no {rule.what}: expected a function of ({rule.arguments})')
    if has_name(scope, thing) or _is_believed(scope, thing, package, believed):
        return thing
    raise _not_called(rule, name, thing, package)


def _is_known(rule: Scope, thing: Any) -> bool:
    return (inspect.isclass(thing) or inspect.isfunction(thing)) and _path_of(thing) in rule.known


def _is_believed(scope: str, thing: Any, package: str, believed: bool) -> bool:
    """Whether a function may be called as a component, or to build one."""
    rule, returns = SCOPES[scope], returned(thing)
    if rule.itself is not None:
        is_operator = inspect.isbuiltin(thing) and 'torch.Tensor' in rule.gives  # they say nothing, and compute
        return believed or is_operator or (returns is not None and _path_of(returns) in rule.gives)
    if believed:
        return returns is None or returns is object or _may_be(scope, returns)
    if returns is not None and not _is_class_of(scope, returns, believed=False):
        return False
    owner: Any = getattr(thing, '__self__', None)
    if not (inspect.ismethod(thing) and inspect.isclass(owner)):
        return returns is not None and package in BUILDERS
    factories = {_path_of(base) for base in owner.__mro__}  # such as AutoModel, which is no model
    return _is_class_of(scope, owner, believed=False) or not factories.isdisjoint(rule.factories)


def _not_called(rule: Scope, name: str, thing: Any, package: str) -> ConfigError:
    returns = returned(thing)
    does = f'it returns {returns.__name__}' if returns is not None else 'it does not say what it returns'
    remedy = f', or trust all of it: {current().remedy.format(package=package)}'
    if current().vouches_for(package):
        remedy = ', or correct what it is annotated to return'
    return ConfigError(f'{name!r} is not called as {rule.a}: {does}. Write a function of your own around it{remedy}')


def _is_class_of(scope: str, thing: Any, believed: bool = True) -> bool:
    """Whether a class is of a kind: by a base class, by its name, or by its methods where these are believed."""
    rule = SCOPES[scope]
    if not inspect.isclass(thing):
        return False
    if any(import_path(base) in thing.__mro__ for base in rule.kind) or has_name(scope, thing):
        return True
    own = {name for each in thing.__mro__[:-1] for name in vars(each)}  # every class has __call__ by its metaclass
    return believed and own.issuperset(rule.methods or ('',))


def _may_be(scope: str, returns: type) -> bool:
    """Whether a function that returns this class, or one derived from it, may return a component of a scope."""
    if _is_class_of(scope, returns):
        return True
    return inspect.isabstract(returns) or getattr(returns, '_is_protocol', False) or not SCOPES[scope].kind


def _bases(rule: Scope, package: str) -> str:
    if rule.kind:
        return f'a class derived from {" or ".join(rule.kind)}'
    own = f'a class of {OURS}, or one of your own with {" and ".join(rule.methods)}'
    return (
        own if current().vouches_for(package) else f'{own}. If you trust it: {current().remedy.format(package=package)}'
    )


def _path_of(kind: type | FunctionType) -> str:
    return f'{kind.__module__}.{kind.__qualname__}'


def _takes(function: Any, arguments: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return True  # a builtin without a signature
    slots = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(slots) >= arguments or any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
