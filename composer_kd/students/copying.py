"""A model built anew from a config, with its weights copied out of another: layers renumbered, or neurons left out."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ['Cuts', 'Origin', 'Slice', 'check_settings', 'rebuilt', 'shapes_of', 'taking']

Origin = Callable[[str], str]
"""The name in the source of the parameter, buffer or module that has a name in the copy."""

Slice = Callable[[str, Tensor, torch.Size], Tensor]
"""Cuts a source's tensor, by its name in the copy, to the shape that it has there."""

Cuts: TypeAlias = dict[str, dict[int, Tensor]]
"""For parameters by name the indices that are kept in some of their dimensions; the others are kept whole."""

# What a layer sets by its position among the others, or while it runs.
_BY_POSITION = frozenset(
    {'drop_prob', 'gradient_checkpointing', 'has_relative_attention_bias', 'layer_id', 'layer_idx', 'training'}
)


def rebuilt(
    model: PreTrainedModel,
    config: PretrainedConfig,
    origin: Origin = str,
    cut: Slice | None = None,
    may_be_left: tuple[str, ...] = (),
) -> PreTrainedModel:
    """Builds a model of the same class from another config, and copies the weights.

    Since ``from_pretrained`` builds it from the same config, the copy loads as it is after it was saved. It shares no
    memory with the source; dtypes, device, tied weights and the mode are those of the source. All of its parameters
    train, also where the source is frozen. No random numbers are drawn.

    Args:
        model: The source.
        config: The config of the copy, which becomes its own.
        origin: Where each parameter and buffer comes from.
        cut: Cuts tensors to the shape that they have in the copy; None if none are cut.
        may_be_left: Prefixes of names in the source that have no place in the copy.

    Returns:
        The copy.

    Raises:
        ConfigError: If the source is not as its config and class build it.
    """
    copied = _built(model, config)
    sources = {**dict(_parameters(model)), **dict(model.named_buffers(remove_duplicate=False))}
    made: dict[int, nn.Parameter] = {}
    used: set[int] = set()
    for path, part in copied.named_modules():
        for name, own in [*part._parameters.items(), *part._buffers.items()]:
            if own is None:
                continue
            full = _join(path, name)
            used.add(id(sources.get(origin(full))))
            if name in part._non_persistent_buffers_set:
                part._buffers[name] = _like(own, sources.get(origin(full)))
                continue
            value = _value(model, full, origin(full), own, sources, cut)
            if name in part._buffers:
                part._buffers[name] = value
                continue
            if id(own) not in made:
                made[id(own)] = nn.Parameter(value, requires_grad=own.requires_grad)
            elif not torch.equal(made[id(own)], value):
                raise ConfigError(
                    f'{full!r} is tied to another parameter by the config of {type(model).__name__}, and in this '
                    'teacher it has other values: set config.tie_word_embeddings = False'
                )
            part._parameters[name] = made[id(own)]
    _check_left_over(model, used, may_be_left)
    _check_ties(model, copied, origin)
    if getattr(model, 'generation_config', None) is not None:
        copied.generation_config = copy.deepcopy(model.generation_config)
    return copied.train(model.training)


def taking(cuts: Cuts) -> Slice:
    """Cuts tensors to the indices that are kept."""

    def cut(name: str, value: Tensor, shape: torch.Size) -> Tensor:
        for axis, index in cuts.get(name, {}).items():
            value = value.index_select(axis, index.to(value.device))
        return value

    return cut


def shapes_of(model: PreTrainedModel, config: PretrainedConfig) -> dict[str, torch.Size]:
    """The shapes of the parameters of a model of the same class, built from another config; without memory for them."""
    with torch.device('meta'):
        return {name: parameter.shape for name, parameter in _parameters(_built(model, config))}


def check_settings(layer: nn.Module, source: nn.Module, whose: str) -> None:
    """Refuses a layer with other settings than the one that it was copied from, such as another attention window.

    Args:
        layer: The layer in the copy.
        source: The layer in the source.
        whose: The layer, for messages.

    Raises:
        ConfigError: If their parts differ in a number, word or truth value that is not of their position.
    """
    parts = dict(source.named_modules())
    for path, part in layer.named_modules():
        like = parts.get(path)
        if like is None or type(part) is not type(like):
            continue  # one that the position decides, such as a stochastic depth of 0; weights were compared by name
        settings, before = _settings(part), _settings(like)
        for name in settings.keys() & before.keys():
            if settings[name] != before[name]:
                raise ConfigError(
                    f'{_join(whose, path)} has {name} = {before[name]!r}, and a student built from the same config has '
                    f'{settings[name]!r} there: state it in the config, so that a saved student keeps it'
                )


def _settings(part: nn.Module) -> dict[str, Any]:
    simple = (bool, int, float, str, tuple, type(None))
    return {
        name: value
        for name, value in vars(part).items()
        if not name.startswith('_') and name not in _BY_POSITION and isinstance(value, simple)
    }


def _built(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    from transformers.modeling_utils import no_init_weights

    options: dict[str, Any] = {}
    if 'add_pooling_layer' in inspect.signature(type(model).__init__).parameters:
        options['add_pooling_layer'] = getattr(model, 'pooler', None) is not None
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(no_init_weights())
        copied = type(model)(config, **options)
    copied.tie_weights()
    return copied


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters(remove_duplicate=False))


def _like(own: Tensor, source: Tensor | None) -> Tensor:
    """A buffer that is computed and never saved, as the source keeps it."""
    if source is None:
        return own
    return own.to(source.device, source.dtype if own.is_floating_point() else own.dtype)


def _value(
    model: PreTrainedModel, name: str, source: str, own: Tensor, sources: Mapping[str, Tensor], cut: Slice | None
) -> Tensor:
    if source not in sources:
        raise ConfigError(
            f'{type(model).__name__} has no {source!r}, which its class builds from its config: the teacher must be as '
            'its class and config make it'
        )
    value = sources[source].detach()
    if cut is not None:
        value = cut(name, value, own.shape)
    if value.shape != own.shape:
        raise ConfigError(
            f'{source!r} of {type(model).__name__} has the shape {tuple(value.shape)}, and its config builds '
            f'{tuple(own.shape)}: correct the config, such as vocab_size after embeddings were resized'
        )
    return value.clone()


def _check_left_over(model: PreTrainedModel, used: set[int], may_be_left: tuple[str, ...]) -> None:
    left = [name for name, own in _parameters(model) if id(own) not in used and not name.startswith(may_be_left)]
    if left:
        raise ConfigError(
            f'{type(model).__name__} has {left[0]!r}, which its class does not build from its config: remove it before '
            'the student is cut'
        )


def _check_ties(model: PreTrainedModel, copied: PreTrainedModel, origin: Origin) -> None:
    """Refuses a teacher that shares parameters by hand, which a student loaded from a file would not."""
    ties = dict(_parameters(model))
    first: dict[int, tuple[str, int]] = {}
    for name, parameter in _parameters(copied):
        shared = id(ties[origin(name)])
        before = first.setdefault(shared, (name, id(parameter)))
        if before[1] != id(parameter):
            raise ConfigError(
                f'{before[0]!r} and {name!r} are one parameter in the teacher, and two in a model that is built from '
                'its config (tie_word_embeddings): cut the student before they are tied by hand'
            )


def _join(path: str, name: str) -> str:
    return '.'.join(part for part in (path, name) if part)
