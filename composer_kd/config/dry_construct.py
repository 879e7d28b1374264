"""Dry run of cheap components: constructs them during the config check, with stand-ins for expensive parts."""

from __future__ import annotations

import dataclasses
import inspect
import os
import warnings
from typing import Any

import torch
from composer.utils.parallelism import FSDP2Config, FSDPConfig

from composer_kd.algorithms.peers import Peer
from composer_kd.config.construct import construct
from composer_kd.config.markers import Component
from composer_kd.config.registry import SCOPES, is_function_itself, is_shown
from composer_kd.config.schema import PeerConfig, TeacherConfig
from composer_kd.config.stage_teachers import StageTeacherConfig
from composer_kd.config.stored import StoredTeacherConfig
from composer_kd.config.typecheck import Parameter, parameters
from composer_kd.errors import stopped_by
from composer_kd.presentation.addresses import without_credentials
from composer_kd.teachers import FrozenTeacher

__all__ = [
    'SETTINGS',
    'STAND_IN',
    'compile_settings',
    'fsdp_settings',
    'supplied_names',
    'try_component',
    'without_weights',
]

# Replaces an option that has faults, so that the component around it can still be constructed.
STAND_IN = Component('model', 'stand-in')

# Constructors raise all kinds of errors for a wrong value, and those of a user's own class may end the process.
_REFUSALS = (Exception, SystemExit)


def supplied_names(scope: str, target: Any) -> frozenset[str]:
    """Lists the parameters that the run supplies and that a YAML file must not set.

    Args:
        scope: A key of ``SCOPES``.
        target: The class or function.

    Returns:
        For an optimizer ``params``; for a function, the arguments of each call, such as the outputs that a loss
        compares; empty for other classes.

    Example:
        >>> supplied_names('optimizer', torch.optim.SGD)
        frozenset({'params'})
    """
    if scope == 'optimizer':
        return frozenset({'params'})
    if not is_function_itself(scope, target):
        return frozenset()
    rule = SCOPES[scope]
    return frozenset([*list(parameters(target)[0])[: rule.given], *rule.filled_in])


def fsdp_settings() -> dict[str, Parameter]:
    """Lists the settings of the FSDP version that Composer will use (environment variable ``FSDP_VERSION``).

    Composer itself accepts unknown settings, so the check of the configuration compares with this list.

    Returns:
        The settings by name.

    Example:
        >>> 'mixed_precision' in fsdp_settings()
        True
    """
    version = FSDP2Config if os.environ.get('FSDP_VERSION', '1') == '2' else FSDPConfig
    return {f.name: Parameter(Any, False) for f in dataclasses.fields(version) if not f.name.startswith('_')}


def compile_settings() -> dict[str, Parameter]:
    """Lists the options of ``torch.compile``.

    Returns:
        The options by name, without the model.

    Example:
        >>> 'backend' in compile_settings(), 'model' in compile_settings()
        (True, False)
    """
    return {name: Parameter(Any, False) for name in inspect.signature(torch.compile).parameters if name != 'model'}


SETTINGS = {'fsdp': fsdp_settings, 'compile': compile_settings}
"""What lists the settings that a mark ``OptionsOf`` names."""


def without_weights(component: Component) -> Any:
    """Constructs a component with stand-ins for models and teachers, to ask it what its settings alone decide.

    Args:
        component: A checked component.

    Returns:
        The object.

    Example:
        >>> options = {'exits': ['layer1', 'layer2']}
        >>> without_weights(Component('algorithm', 'self_distillation', options)).names()
        ['exit.layer1', 'exit.layer2']
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter('ignore')
        return construct(component, stand_in=_stand_in)


def try_component(component: Component) -> list[str]:
    """Constructs a cheap component as a dry run, and discards it.

    Args:
        component: A component whose option names and types have been checked.

    Returns:
        One fault for each option that is rejected on its own, otherwise one for the whole component; an empty list if
        the construction succeeds or is too expensive to try.

    Example:
        >>> try_component(Component('optimizer', 'Adam', {'lr': -1.0}, 'optimizer'))
        ['optimizer.lr: Invalid learning rate: -1.0']
    """
    if not _is_tried(component):
        return []
    if _refusal(component) is None:
        return []
    required = {name for name, p in parameters(component.target)[0].items() if p.required}
    base = {key: value for key, value in component.options.items() if key in required}
    alone = {
        key: _refusal(component.with_options({**base, key: value}))
        for key, value in component.options.items()
        if key not in required
    }
    faults = [
        f'{component.path}.{key}: {message.removeprefix(f"{key}: ")}'  # a message may begin with the argument
        for key, message in alone.items()
        if message is not None
    ]
    if len(faults) == len(alone) > 1:
        faults = []  # if all fail, the cause is a required option
    rest = {key: value for key, value in component.options.items() if alone.get(key) is None}
    together = _refusal(component.with_options(rest))
    return faults if faults and together is None else [*faults, f'{component.path}: {together or _refusal(component)}']


def _is_tried(component: Component) -> bool:
    """Whether a component is cheap, and known to be of its kind before it is called."""
    return SCOPES[component.scope].cheap and is_shown(component.scope, component.target)


def _refusal(component: Component) -> str | None:
    supplied = {'params': [torch.nn.Parameter(torch.zeros(1))]} if component.scope == 'optimizer' else {}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter('ignore')  # shown when it is constructed for the run
        try:
            made = construct(_without_unknown_bindings(component), stand_in=_stand_in, **supplied)
            return _not_a_loss(component.name, made) if component.scope == 'loss' else None
        except _REFUSALS as error:
            if stopped_by(error) is not None:
                raise
            return ' '.join(str(error).split()) or type(error).__name__


def _not_a_loss(name: str, loss: Any) -> str | None:
    """Explains why an object is not a loss; returns None if it is one, or if only the run can tell."""
    expected = f'{name} is no loss: expected (student, teacher) -> scalar tensor'
    filled_in: dict[str, Any] = {'labels': torch.zeros(2, dtype=torch.long), 'mask': None, 'index': torch.arange(2)}
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, torch.nn.Module) else loss)
    except ValueError:  # a builtin without a signature
        signature = inspect.signature(lambda student, teacher: None)
    filled_in = {key: value for key, value in filled_in.items() if key in signature.parameters}
    try:
        value = loss(torch.zeros(2, 3), torch.zeros(2, 3), **filled_in)
    except Exception as error:  # it may need other shapes, lists of features, or a setup by the run
        return None if _takes(signature, filled_in) else f'{expected}; called so, it says: {error}'
    if not isinstance(value, torch.Tensor):
        return f'{expected}, got {type(value).__name__}'
    return None if value.ndim == 0 else f'{expected}, got a tensor of shape {tuple(value.shape)}'


def _takes(signature: inspect.Signature, filled_in: dict[str, Any]) -> bool:
    try:
        signature.bind(None, None, **filled_in)
    except TypeError:
        return False
    return True


def _without_unknown_bindings(algorithm: Component) -> Component:
    """Takes out which teacher each match is bound to, if there are teachers whose names only the objects have."""
    of_objects = [one for one in algorithm.holding(Component) if one.scope == 'teacher']
    if not of_objects and not any(one.name is None for one in algorithm.holding(StoredTeacherConfig)):
        return algorithm

    def unbound(value: Any) -> Any:
        if isinstance(value, list):
            return [unbound(one) for one in value]
        if isinstance(value, Component) and value.scope == 'match':
            return value.with_options({key: one for key, one in value.options.items() if key != 'teacher'})
        return value

    return algorithm.with_options({key: unbound(value) for key, value in algorithm.options.items()})


def _stand_in(value: Any) -> Any:
    # Building a teacher loads its weights; the dry run of an algorithm only needs a module with the teacher's name.
    if isinstance(value, TeacherConfig):
        model = '' if value.model is None else value.model.name  # None: it is among the faults
        return FrozenTeacher(
            torch.nn.Identity(), name=value.name or without_credentials(value.checkpoint or model) or None
        )
    if isinstance(value, PeerConfig):
        return Peer(torch.nn.Identity(), name='' if value.model is None else value.called, lr=value.lr)
    if isinstance(value, StoredTeacherConfig):
        return FrozenTeacher(torch.nn.Identity(), name=value.name or value.cache)
    if isinstance(value, StageTeacherConfig):
        return FrozenTeacher(torch.nn.Identity(), name=value.name or value.stage)
    if isinstance(value, Component) and value.scope == 'teacher':
        return FrozenTeacher(torch.nn.Identity(), name=value.name)
    if isinstance(value, Component) and not _is_tried(value):
        return torch.nn.Identity()
    return None
