"""Turns checked names and options into objects."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

from composer_kd.config.markers import Component
from composer_kd.config.schema import TeacherConfig
from composer_kd.errors import Attempts, ComposerKDError, ConfigError
from composer_kd.teachers import FrozenTeacher

__all__ = ['build_teacher', 'construct', 'construct_or_say', 'is_function_itself']


def is_function_itself(scope: str, target: Any) -> bool:
    """Tells whether a name means the function itself and not what it returns: ``kd_loss_fn: my.module.my_loss``.

    Args:
        scope: A key of ``SCOPES``.
        target: What the name resolves to.

    Returns:
        True for a loss, adapter, scheduler or schedule that is a function; all else is called for what it builds.

    Example:
        >>> import torch
        >>> is_function_itself('loss', torch.nn.functional.mse_loss), is_function_itself('loss', torch.nn.MSELoss)
        (True, False)
    """
    return scope in ('loss', 'adapter', 'scheduler', 'schedule') and not inspect.isclass(target)


def construct(component: Component, stand_in: Callable[[Any], Any] | None = None, **supplied: Any) -> Any:
    """Builds what a component names, and what its options name in their turn.

    Args:
        component: Name and options.
        stand_in: Gives a replacement for an option that shall not be built, None to build it.
        supplied: Keyword arguments that no YAML can hold, such as an optimizer's parameters.

    Returns:
        The object.

    Raises:
        ConfigError: If the name means nothing.

    Example:
        >>> construct(Component('loss', 'torch.nn.MSELoss', {'reduction': 'sum'})).reduction
        'sum'
    """
    options = {key: _materialise(value, stand_in) for key, value in component.options.items()}
    if is_function_itself(component.scope, component.target):
        return functools.partial(component.target, **options)
    return component.target(**supplied, **options)


def _materialise(value: Any, stand_in: Callable[[Any], Any] | None) -> Any:
    replacement = stand_in(value) if stand_in is not None else None
    if replacement is not None:
        return replacement
    if isinstance(value, Component):
        return construct(value, stand_in)
    if isinstance(value, TeacherConfig):
        return build_teacher(value)
    if isinstance(value, list):
        attempt = Attempts()  # of several teachers, all that cannot be built are named
        items = [attempt(_materialise, item, stand_in) for item in value]
        attempt.finish()
        return items
    return value


def construct_or_say(component: Component, **supplied: Any) -> Any:
    """Builds what was too dear for a trial: what it refuses is said before training all the same, with its key.

    Args:
        component: Name and options.
        supplied: As for ``construct``.

    Returns:
        The object.

    Raises:
        ConfigError: If it cannot be built from its options.
    """
    try:
        return construct(component, **supplied)
    except ConfigError as error:
        raise ConfigError(f'{component.path}: {error}') from error
    except ComposerKDError:
        raise  # a checkpoint's error names the file
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        written = ', '.join(f'{key}={value!r}' for key, value in component.options.items())
        raise ConfigError(f'{component.path}: {component.name}({written}) cannot be built: {error}') from error


def build_teacher(config: TeacherConfig) -> FrozenTeacher:
    """Builds one teacher and loads its weights.

    Args:
        config: Model, checkpoint, adapter, name.

    Returns:
        The teacher, frozen.

    Raises:
        CheckpointNotFoundError: If the checkpoint is not there.
        CheckpointError: If it is damaged, unsafe, or does not fit the model.
    """
    adapter = construct(config.input_adapter) if config.input_adapter is not None else None
    if config.is_random and '.' in config.model.name:
        warnings.warn(
            f'{config.model.path}: no checkpoint is given, so the teacher {config.model.name} teaches with the weights '
            'that it is built with; give its checkpoint unless it loads trained weights itself',
            stacklevel=2,
        )
    model = construct_or_say(config.model)
    return FrozenTeacher(model, checkpoint=config.checkpoint, input_adapter=adapter, name=config.name)
