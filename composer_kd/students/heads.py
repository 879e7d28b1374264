"""A student of fewer attention heads: which ones each layer keeps, and where these lie in its parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.students.architectures import Attention, architecture_of, stacks_of
from composer_kd.students.copying import Cuts, rebuilt, taking
from composer_kd.students.importance import has_part, inputs_first, layers_of, norms_into, part_of
from composer_kd.students.layer_choice import most_important
from composer_kd.students.measuring import Batches

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ['Kept', 'chosen_heads', 'cut_heads', 'cuts_of_heads', 'head_size', 'set_heads']


@dataclass(frozen=True)
class Kept:
    """The heads that an attention keeps: of its queries, and of its keys and values; indices, ascending."""

    heads: list[int]
    key_values: list[int]


def cut_heads(model: PreTrainedModel, number: int, data: Batches) -> PreTrainedModel:
    """Leaves the attention heads that add least out of each layer of a student.

    The heads keep their size. Where the config has a setting for it, it says so; elsewhere ``config.pruned_heads`` says
    which heads are left out. Either way ``from_pretrained`` builds the same model.

    Args:
        model: The student; of an architecture that transformers prunes it is changed.
        number: How many heads each layer keeps.
        data: Batches on which they are measured, as :func:`~composer_kd.students.importance.norms_into` says.

    Returns:
        The student.

    Raises:
        ConfigError: If there are not as many heads, or no config of the architecture says that some are left out.
    """
    architecture = architecture_of(model)
    count = model.config.num_attention_heads
    _check_number(model, number)
    if architecture.head_size is not None:
        config = copy.deepcopy(model.config)
        set_heads(config, architecture.head_size, head_size(model), number)
        return rebuilt(model, config, cut=taking(cuts_of_heads(model, chosen_heads(model, number, data))))
    if number == count:
        return model
    _check_prunable(model)
    (kept,) = chosen_heads(model, number, data).values()
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
        model.prune_heads({layer: sorted(set(range(count)) - set(one.heads)) for layer, one in enumerate(kept)})
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    return model


def chosen_heads(model: PreTrainedModel, number: int, data: Batches) -> dict[tuple[str, Attention], list[Kept]]:
    """Chooses the heads that add most to the output of their attention.

    Where several heads of queries share one of keys and values, as many of these are kept as can be with an equal share
    of queries; a group counts as much as its best heads together. Where one table serves all layers of a stack, such
    as T5's of relative positions, they keep the same heads: those with the largest share on average.

    Args:
        model: A model of a supported architecture.
        number: How many heads each attention keeps.
        data: Batches on which they are measured; read once for each attention of a layer.

    Returns:
        For each stack and each attention in its layers what each layer keeps.

    Raises:
        ConfigError: If no such number of heads can share the key-value heads, or the data is not as expected.
    """
    count = model.config.num_attention_heads
    groups = getattr(model.config, 'num_key_value_heads', None) or count
    of_groups = _number_of_groups(number, count, groups)
    kept: dict[tuple[str, Attention], list[Kept]] = {}
    for attention in architecture_of(model).attentions:
        if not any(_layers_with(model, attention)):
            continue
        for stack, scores in norms_into(model, data, attention.into, groups=count).items():
            if _share_heads(model, stack, attention):
                shares = torch.stack([one / one.sum().clamp(min=torch.finfo(one.dtype).tiny) for one in scores])
                scores = [shares.mean(0)] * len(scores)
            kept[stack, attention] = [_best(one, groups, of_groups, number) for one in scores]
    return kept


def cuts_of_heads(model: PreTrainedModel, kept: Mapping[tuple[str, Attention], Sequence[Kept]]) -> Cuts:
    """Says which rows and columns of which parameters the kept heads are.

    Args:
        model: The model.
        kept: What :func:`chosen_heads` chose.

    Returns:
        For each parameter the indices that are kept in some of its dimensions.
    """
    count = model.config.num_attention_heads
    groups = getattr(model.config, 'num_key_value_heads', None) or count
    cuts: Cuts = {}
    for (stack, attention), of_layers in kept.items():
        path = stacks_of(model)[stack][1]
        for number, (layer, one) in enumerate(zip(layers_of(model, path), of_layers)):
            into = part_of(layer, attention.into)
            columns = _units(one.heads, count, len(inputs_first(into)))
            found: Cuts = {f'{attention.into}.weight': {int(isinstance(into, nn.Linear)): columns}}
            for name in attention.queries:
                found.update(_outputs(name, part_of(layer, name), one.heads, count, attention.times))
            for name in attention.key_values:
                found.update(_outputs(name, part_of(layer, name), one.key_values, groups))
            cuts.update({f'{path}.{number}.{name}': cut for name, cut in found.items()})
        for table in _tables(model, stack, attention):
            number = int(table[len(path) + 1 :].partition('.')[0]) if table.startswith(f'{path}.') else 0
            cuts[table] = {1: torch.tensor(of_layers[number].heads)}
    return cuts


def head_size(model: PreTrainedModel) -> int:
    """The number of dimensions of one head."""
    attention = architecture_of(model).attentions[0]
    layer = next(iter(_layers_with(model, attention)))
    return len(inputs_first(part_of(layer, attention.into))) // model.config.num_attention_heads


def set_heads(config: PretrainedConfig, setting: str | None, size: int, number: int) -> None:
    """Sets the number of heads in a config, with their size if it has a setting for this."""
    groups = getattr(config, 'num_key_value_heads', None)
    if groups is not None:
        config.num_key_value_heads = _number_of_groups(number, config.num_attention_heads, groups)
    config.num_attention_heads = number
    if setting is not None:
        setattr(config, setting, size)


def _check_number(model: PreTrainedModel, number: object) -> None:
    count = model.config.num_attention_heads
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= count:
        raise ConfigError(
            f'num_attention_heads: expected 1 to {count}, the attention heads of each layer of the teacher, got '
            f'{number!r}'
        )
    if getattr(model.config, 'pruned_heads', None):
        raise ConfigError('num_attention_heads: some heads of the teacher are left out already (config.pruned_heads)')


def _check_prunable(model: PreTrainedModel) -> None:
    architecture = architecture_of(model)
    tables = [_tables(model, stack, one) for stack in stacks_of(model) for one in architecture.attentions]
    if architecture.prunes and not any(tables):
        return
    why = (
        'its tables of relative positions have a column for each head'
        if any(tables)
        else 'transformers prunes no heads there'
    )
    raise ConfigError(
        f'num_attention_heads: by the config of {type(model).__name__} a head has hidden_size / num_attention_heads '
        f'dimensions, and {why}: give hidden_size too, {head_size(model)} for each head that is kept'
    )


def _number_of_groups(number: int, count: int, groups: int) -> int:
    """How many key-value heads are kept: the most that can serve equally many heads, and no more than now."""

    def fitting(wanted: int) -> list[int]:
        most = count // groups
        return [few for few in range(1, min(groups, wanted) + 1) if wanted % few == 0 and wanted // few <= most]

    found = fitting(number)
    if not found:
        able = ', '.join(str(one) for one in range(1, count + 1) if fitting(one))
        raise ConfigError(
            f'num_attention_heads: {number} heads cannot share at most {groups} key-value heads equally, at most '
            f'{count // groups} to one, as those of the teacher do: expected one of {able}'
        )
    return found[-1]


def _best(scores: Tensor, groups: int, of_groups: int, number: int) -> Kept:
    by_group = scores.view(groups, -1)
    each = [most_important(one.tolist(), number // of_groups) for one in by_group]
    best = most_important([float(one[index].sum()) for one, index in zip(by_group, each)], of_groups)
    return Kept([group * by_group.shape[1] + head for group in best for head in each[group]], best)


def _layers_with(model: PreTrainedModel, attention: Attention) -> list[nn.Module]:
    found = [layer for _, path in stacks_of(model).values() for layer in layers_of(model, path)]
    return [layer for layer in found if has_part(layer, attention.into)]


def _tables(model: PreTrainedModel, stack: str, attention: Attention) -> list[str]:
    """The names of the tables of a stack that have a column for each head."""
    if attention.table is None:
        return []
    around = ''.join(stacks_of(model)[stack][1].rpartition('.')[:2])
    return [name for name, _ in model.named_parameters() if name.startswith(around) and name.endswith(attention.table)]


def _share_heads(model: PreTrainedModel, stack: str, attention: Attention) -> bool:
    """Whether one table serves all layers, whose heads must then be the same."""
    path = stacks_of(model)[stack][1]
    tables = _tables(model, stack, attention)
    return 0 < len(tables) < len(layers_of(model, path)) or any(not one.startswith(f'{path}.') for one in tables)


def _outputs(name: str, linear: nn.Module, kept: Sequence[int], count: int, times: int = 1) -> Cuts:
    """Some of the heads that a linear layer makes, in its weight and bias."""
    cuts: Cuts = {}
    for end, parameter in linear.named_parameters():
        axis = 0 if isinstance(linear, nn.Linear) else -1  # of GPT-2 the weight is (inputs, outputs)
        cuts[f'{name}.{end}'] = {axis: _units(kept, count, parameter.shape[axis], times)}
    return cuts


def _units(kept: Sequence[int], count: int, length: int, times: int = 1) -> Tensor:
    """The indices of some of ``count`` equal parts of a dimension, in which all parts stand ``times`` times."""
    places = torch.arange(length).view(times, count, -1)
    return places[:, torch.tensor(kept, dtype=torch.long)].flatten()
