"""Builds models of transformers, from saved weights or at random, and says which of their weights are random."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from composer_kd.errors import ConfigError, nearest
from composer_kd.pretrained import load, quiet, require_transformers

__all__ = ['Built', 'build', 'untrained']

_log = logging.getLogger(__name__)

# What would run code, or fetch it, and what has an option of its own.
_NOT_IN_CONFIG = {
    'attn_implementation': 'is the option attention',
    'auto_map': 'names code that comes with the weights, which is never run',
    'trust_remote_code': 'runs code that comes with the weights, which is never run',
    'id2label': 'is the option labels',
    'label2id': 'is the option labels',
}


@dataclass(frozen=True)
class Built:
    """A model of transformers, and where it came from.

    Args:
        model: The model.
        place: The folder or name that has its tokenizer; None for an architecture of random weights.
        option: The option that said the place.
        initialized: The sum of each weight that ``pretrained`` did not have, and that is therefore random; empty if it
            had all, and without ``pretrained``.
    """

    model: Any
    place: str | None
    option: str
    initialized: dict[str, float] = field(default_factory=dict)


def build(
    auto: str,
    pretrained: str | nn.Module | None,
    architecture: str | None,
    overrides: Mapping[str, Any] | None,
    attention: str | None,
    own: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
) -> Built:
    """Builds a model of transformers.

    Args:
        auto: The name of the ``AutoModel`` class of the task.
        pretrained: The folder, or the name on the Hub, of weights and configuration; or a model, which stays as it is.
        architecture: In its place: a kind of model, or a folder or name of a configuration, for random weights.
        overrides: Values of the configuration, as the user set them.
        attention: How attention is computed; None for the library's choice.
        own: Values of the configuration that the task sets, unless the user does.
        labels: The names of the classes.

    Returns:
        The model, in float32.

    Raises:
        ConfigError: If it cannot be built.
    """
    transformers = require_transformers('a model of the Hugging Face Hub')
    if (pretrained is None) == (architecture is None):
        raise ConfigError(
            'pretrained: give the folder of a model, or its name on the Hub; or architecture, such as bert, for random '
            f'weights; {"got both" if pretrained else "got neither"}'
        )
    if isinstance(pretrained, nn.Module):
        return _as_it_is(pretrained, auto, {'config': overrides, 'attention': attention, 'labels': labels}, own or {})
    config = _config(transformers, pretrained, architecture, {**(own or {}), **(overrides or {})}, overrides or {})
    if labels is not None:
        _name_classes(config, labels)
    how = _attention(config, attention)
    kind = getattr(transformers, auto)
    if pretrained is not None:
        with quiet('a model of the Hugging Face Hub'):
            made, told = load(
                kind.from_pretrained, pretrained, 'pretrained', config=config, output_loading_info=True,
                ignore_mismatched_sizes=True, **how,
            )  # fmt: skip
        _say_loaded(pretrained, told)
        return Built(made, pretrained, 'pretrained', _initialized(made, told))
    try:
        # A class of its own has no choice of code to trust.
        make = getattr(kind, 'from_config', None)
        made = kind._from_config(config, **how) if make is None else make(config, trust_remote_code=False, **how)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise ConfigError(f'architecture: {auto} of {architecture!r} cannot be built: {_said(error)}') from error
    return Built(made, architecture if architecture not in transformers.CONFIG_MAPPING else None, 'architecture')


def _as_it_is(model: Any, auto: str, written: Mapping[str, Any], own: Mapping[str, Any]) -> Built:
    """A model that the user has built; what would change it is refused."""
    transformers = require_transformers('a model of transformers')
    for option, value in written.items():
        if value is not None:
            raise ConfigError(f'{option}: {type(model).__name__} is built already; give it to its configuration')
    # By name: to look classes up in the mapping itself would import every model of the library.
    entries = getattr(transformers, auto)._model_mapping._model_mapping.values()
    names = {name for entry in entries for name in ((entry,) if isinstance(entry, str) else entry)}
    inner = model.get_base_model() if hasattr(model, 'get_base_model') else model  # an adapter of PEFT
    if not any(kind.__name__ in names for kind in type(inner).__mro__):
        raise ConfigError(f'pretrained: expected a model of {auto}, got {type(model).__name__}')
    for key in ('problem_type', 'num_labels'):
        has = getattr(model.config, key, None)
        if key in own and has not in (None, own[key]):
            raise ConfigError(f'{key}: {type(model).__name__} has {has!r}, and this task {own[key]!r}; build it so')
    if 'problem_type' in own:
        model.config.problem_type = own['problem_type']
    return Built(model, None, 'pretrained')


def untrained(model: nn.Module) -> list[str]:
    """The weights that a model's pretrained folder did not have, if they are all still as they were drawn at random.

    Args:
        model: The model.

    Returns:
        Their names; empty for models that this package did not build.
    """
    drawn = getattr(model, 'initialized', None) or {}
    inner = getattr(model, 'model', getattr(model, 'module', model))
    now = dict(inner.named_parameters()) if drawn else {}
    as_drawn = all(name in now and _sum_of(now[name]) == value for name, value in drawn.items())
    return list(drawn) if as_drawn else []


def _config(
    transformers: Any, pretrained: str | None, architecture: str | None, values: dict[str, Any], written: Any
) -> Any:
    if architecture is not None and architecture in transformers.CONFIG_MAPPING:

        def make(**settings: Any) -> Any:
            return transformers.AutoConfig.for_model(architecture, **settings)
    else:
        place, option = (pretrained, 'pretrained') if pretrained is not None else (architecture, 'architecture')
        assert place is not None

        def make(**settings: Any) -> Any:
            try:
                return load(transformers.AutoConfig.from_pretrained, place, option, **settings)
            except ConfigError as error:
                kinds = nearest(place, transformers.CONFIG_MAPPING) if architecture is not None else ''
                raise ConfigError(f'{error}{kinds if "did you mean" in kinds else ""}') from error

    plain = make()
    for key in written:
        if key in _NOT_IN_CONFIG:
            raise ConfigError(f'config.{key}: {_NOT_IN_CONFIG[key]}')
        if key.startswith('_') or not hasattr(plain, key):
            known = [name for name in {**plain.to_dict(), **plain.attribute_map} if not name.startswith('_')]
            raise ConfigError(f'config.{key}: {type(plain).__name__} has no such value{nearest(key, known)}')
    try:
        return make(**copy.deepcopy(values))
    except (ValueError, TypeError) as error:
        raise ConfigError(f'config: {_said(error)}') from error


def _name_classes(config: Any, labels: Sequence[str]) -> None:
    names = [str(name) for name in labels]
    before = [config.id2label[number] for number in sorted(config.id2label)]
    if before != names and sorted(before) == sorted(names):
        raise ConfigError(
            f'labels: the model has these classes in another order, {before}, got {names}; leave labels out, and let '
            'the labels of the data be in its order'
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}


def _attention(config: Any, attention: str | None) -> dict[str, str]:
    """What is said of attention to the library; kernels are not fetched from the Hub."""
    written = str(getattr(config, '_attn_implementation', '') or '')
    if '/' in f'{attention or ""}{written}':
        raise ConfigError(f'attention: kernels of a repository are not run, got {attention or written!r}')
    wants_maps = bool(getattr(config, 'output_attentions', False))
    if wants_maps and attention not in (None, 'eager'):
        raise ConfigError(f'attention: {attention!r} computes no maps for output_attentions; expected eager')
    chosen = 'eager' if wants_maps else attention
    return {} if chosen is None else {'attn_implementation': chosen}


def _say_loaded(place: str, told: Mapping[str, Any]) -> None:
    """Logs in a line each which weights start at random, and how many of the folder have no place in the model."""
    drawn, left = sorted(told.get('missing_keys', ())), sorted(told.get('unexpected_keys', ()))
    if drawn:
        _log.info('%s has no %s: random until trained', place, ', '.join(drawn[:3]) + (', ...' if drawn[3:] else ''))
    if left:
        _log.info('%d weights of %s have no place in this model, such as %s', len(left), place, left[0])


def _initialized(model: Any, told: Mapping[str, Any]) -> dict[str, float]:
    """The random weights of a model; refuses those that are no part of a head."""
    mismatched = [one if isinstance(one, str) else one[0] for one in told.get('mismatched_keys', ())]
    names = [*told.get('missing_keys', ()), *mismatched]
    prefix = f'{model.base_model_prefix}.'
    has_head = any(not name.startswith(prefix) for name, _ in model.named_parameters())
    inside = [name for name in names if has_head and name.startswith(prefix) and 'pooler' not in name]
    if inside:
        raise ConfigError(
            f'pretrained: its weights do not fit the configuration; random would be {len(inside)} of the body, such as '
            f'{sorted(inside)[:3]}. Leave values of config out that change sizes, or give architecture instead'
        )
    parameters = dict(model.named_parameters())
    return {name: _sum_of(parameters[name]) for name in names if name in parameters}


def _sum_of(weight: torch.Tensor) -> float:
    return float(weight.detach().double().abs().sum())


def _said(error: Exception) -> str:
    return ' '.join(str(error).split())[:300]
