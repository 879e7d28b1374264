"""A student of fewer layers: the config that says so, and the layers copied under their new numbers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from composer_kd.errors import ConfigError
from composer_kd.students.architectures import stacks_of
from composer_kd.students.copying import check_settings, rebuilt

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ['cut_layers']


def cut_layers(model: PreTrainedModel, kept: Mapping[str, Sequence[int]]) -> PreTrainedModel:
    """Copies a model with some of its layers.

    Args:
        model: The teacher.
        kept: For each of its stacks the indices of the layers, from 0 and ascending.

    Returns:
        The student.

    Raises:
        ConfigError: If what a layer computes depends on its number, or the teacher is not as its config builds it.
    """
    stacks = stacks_of(model)
    config = copy.deepcopy(model.config)
    for name, (stack, _) in stacks.items():
        _check_position(config, name, kept[name])
        setattr(config, stack.length, len(kept[name]))
        _keep_settings(config, getattr(model.config, stack.length), kept[name])
    prefixes = {f'{path}.': (stack, kept[name]) for name, (stack, path) in stacks.items()}

    def origin(name: str) -> str:
        for prefix, (stack, indices) in prefixes.items():
            if name.startswith(prefix):
                number, _, rest = name[len(prefix) :].partition('.')
                before = 0 if rest.startswith(stack.first_only or ('\0',)) else indices[int(number)]
                return f'{prefix}{before}.{rest}'
        return name

    left = tuple(
        f'{prefix}{index}.'
        for prefix, (stack, indices) in prefixes.items()
        for index in set(range(getattr(model.config, stack.length))) - set(indices)
    )
    student = rebuilt(model, config, origin, may_be_left=left)
    for prefix, (_, indices) in prefixes.items():
        layers, before = student.get_submodule(prefix[:-1]), model.get_submodule(prefix[:-1])
        for new, old in enumerate(indices):
            check_settings(layers.get_submodule(str(new)), before.get_submodule(str(old)), f'{prefix}{old}')
    return student


def _check_position(config: PretrainedConfig, stack: str, kept: Sequence[int]) -> None:
    if getattr(config, 'scale_attn_by_inverse_layer_idx', False) and list(kept) != list(range(len(kept))):
        raise ConfigError(
            'the attention of each layer is divided by its number (config.scale_attn_by_inverse_layer_idx), so that a '
            f"renumbered layer of the {stack} computes something else: keep the first layers, layers='bottom'"
        )


def _keep_settings(config: PretrainedConfig, depth: int, kept: Sequence[int]) -> None:
    """Lets each layer keep the settings that the config has for it: its kind of attention, its pruned heads."""
    kinds = getattr(config, 'layer_types', None)
    if kinds is not None and len(kinds) == depth:
        config.layer_types = [kinds[index] for index in kept]
    windows_from = getattr(config, 'max_window_layers', None)
    if windows_from is not None:
        config.max_window_layers = sum(index < windows_from for index in kept)
    if getattr(config, 'stage_names', None) is not None:  # read by models alone that are refused
        config.stage_names = config.stage_names[: len(kept) + 1]
        config.out_features = config.stage_names[-1:]
    pruned = {int(layer): heads for layer, heads in getattr(config, 'pruned_heads', {}).items()}
    if pruned:
        config.pruned_heads = {new: pruned[old] for new, old in enumerate(kept) if old in pruned}
