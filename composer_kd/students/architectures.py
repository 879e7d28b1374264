"""Where the architectures of transformers keep their layers, and what their configs call the sizes of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import nn

from composer_kd.errors import ConfigError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ['SUPPORTED', 'Architecture', 'Attention', 'Stack', 'architecture_of', 'stacks_of']


@dataclass(frozen=True)
class Stack:
    """One row of layers.

    Args:
        name: What it is called: ``'encoder'`` or ``'decoder'``.
        path: Its ``ModuleList``, as named in the base model.
        length: The setting of the config that is its number of layers.
        first_only: Parts that the first layer alone has, on behalf of all layers.
    """

    name: str
    path: str
    length: str = 'num_hidden_layers'
    first_only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attention:
    """One attention of a layer: the linear layers around its heads, as named in the layer.

    Args:
        into: The one that the heads go into.
        queries: Those that make all heads: of queries, and of keys and values where there are as many of these.
        key_values: Those that make the key-value heads, of which several heads of queries share one.
        table: How the name of a table ends that has a column for each head, such as one of relative positions; it lies
            in each layer, or serves all of a stack.
        times: How often all heads stand one after another in what ``queries`` make.
    """

    into: str
    queries: tuple[str, ...]
    key_values: tuple[str, ...] = ()
    table: str | None = None
    times: int = 1


@dataclass(frozen=True)
class Architecture:
    """What has to be known of an architecture to cut a student out of it.

    Args:
        stacks: Its stacks; a model may lack one, such as the decoder.
        neurons: The setting of the config that is the number of neurons in the feed-forward part of a layer.
        neurons_into: The linear layer that these neurons go into, as named in a layer.
        attentions: The attentions of a layer; the layers of a stack may lack one, such as that to the encoder.
        head_size: The setting of the config that is the size of a head; None if a head has
            ``hidden_size / num_attention_heads`` dimensions.
        prunes: Whether transformers leaves heads out of single layers (``config.pruned_heads``).
        as_wide: Settings of the config that follow the hidden size where they are equal to it.
        scaled_norm: The norm whose output is divided by the root of the hidden size before a tied head.
        refused: Classes that cannot be cut, with the reason.
    """

    stacks: tuple[Stack, ...]
    neurons: str
    neurons_into: str
    attentions: tuple[Attention, ...]
    head_size: str | None = None
    prunes: bool = False
    as_wide: tuple[str, ...] = ()
    scaled_norm: str | None = None
    refused: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


_BY_NUMBER = 'it reads the layers whose numbers stand in config.out_indices'
_ENCODER = (Stack('encoder', 'encoder.layer'),)
_LAYERS = (Stack('decoder', 'layers'),)
_BIAS = ('layer.0.SelfAttention.relative_attention_bias.',)


def _three(prefix: str, *names: str) -> tuple[str, ...]:
    return tuple(f'{prefix}.{name}' for name in names)


_QUERY_KEY_VALUE = ('query', 'key', 'value')
_OF_BERT = Attention('attention.output.dense', _three('attention.self', *_QUERY_KEY_VALUE))
_OF_VIT = Attention('attention.output.dense', _three('attention.attention', *_QUERY_KEY_VALUE))
_BERT = Architecture(_ENCODER, 'intermediate_size', 'output.dense', (_OF_BERT,), prunes=True)
_VIT = replace(_BERT, attentions=(_OF_VIT,))
_BEIT = replace(
    _VIT,
    attentions=(replace(_OF_VIT, table='relative_position_bias_table'),),
    refused={'BeitForSemanticSegmentation': _BY_NUMBER, 'BeitBackbone': _BY_NUMBER},
)
_MPNET = Architecture(
    _ENCODER,
    'intermediate_size',
    'output.dense',
    (Attention('attention.attn.o', _three('attention.attn', 'q', 'k', 'v'), table='relative_attention_bias.weight'),),
)
_DISTILBERT = Architecture(
    (Stack('encoder', 'transformer.layer'),),
    'hidden_dim',
    'ffn.lin2',
    (Attention('attention.out_lin', _three('attention', 'q_lin', 'k_lin', 'v_lin')),),
    prunes=True,
)
_GPT2 = Architecture(
    (Stack('decoder', 'h'),),
    'n_inner',
    'mlp.c_proj',
    (Attention('attn.c_proj', ('attn.c_attn',), times=3),),
    prunes=True,
)
_GPT_NEOX = Architecture(
    _LAYERS, 'intermediate_size', 'mlp.dense_4h_to_h', (Attention('attention.dense', ('attention.query_key_value',)),)
)
_LLAMA = Architecture(
    _LAYERS,
    'intermediate_size',
    'mlp.down_proj',
    (Attention('self_attn.o_proj', ('self_attn.q_proj',), _three('self_attn', 'k_proj', 'v_proj')),),
    head_size='head_dim',
)
_T5 = Architecture(
    (
        Stack('encoder', 'encoder.block', 'num_layers', _BIAS),
        Stack('decoder', 'decoder.block', 'num_decoder_layers', _BIAS),
    ),
    'd_ff',
    'layer.-1.DenseReluDense.wo',
    (
        Attention(
            'layer.0.SelfAttention.o',
            _three('layer.0.SelfAttention', 'q', 'k', 'v'),
            table='SelfAttention.relative_attention_bias.weight',
        ),
        Attention('layer.1.EncDecAttention.o', _three('layer.1.EncDecAttention', 'q', 'k', 'v')),
    ),
    head_size='d_kv',
    scaled_norm='decoder.final_layer_norm',
)
SUPPORTED: Mapping[str, Architecture] = MappingProxyType(
    {
        'bert': _BERT,
        'roberta': _BERT,
        'xlm-roberta': _BERT,
        'camembert': _BERT,
        'electra': replace(_BERT, as_wide=('embedding_size',)),
        'vit': _VIT,
        'deit': _VIT,
        'beit': _BEIT,
        'mpnet': _MPNET,
        'distilbert': _DISTILBERT,
        'gpt2': _GPT2,
        'gpt_neox': _GPT_NEOX,
        'llama': _LLAMA,
        'mistral': _LLAMA,
        'qwen2': _LLAMA,
        'qwen3': _LLAMA,
        't5': _T5,
        'mt5': _T5,
    }
)
"""The supported architectures, by the ``model_type`` of their config."""

_UNSUITABLE = {
    'albert': 'all of its layers are one layer, applied again and again, so that there are none to choose among; a '
    'student that applies it fewer times is the same model with a smaller config.num_hidden_layers',
}


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Finds the row of the table for a model.

    Args:
        model: A model of transformers.

    Returns:
        Its architecture.

    Raises:
        ConfigError: If it is not supported, or its class cannot be cut.

    Example:
        >>> sorted(SUPPORTED)[:3]
        ['beit', 'bert', 'camembert']
    """
    kind = model.config.model_type
    if kind in _UNSUITABLE:
        raise ConfigError(f'no student can be cut out of {type(model).__name__}: {_UNSUITABLE[kind]}')
    if kind not in SUPPORTED:
        raise ConfigError(
            f'no student can be cut out of {type(model).__name__} (model_type {kind!r}){nearest(kind, SUPPORTED)}. '
            f'Supported: {", ".join(sorted(SUPPORTED))}'
        )
    found = SUPPORTED[kind]
    for base in type(model).__mro__:
        if base.__name__ in found.refused:
            raise ConfigError(
                f'no student can be cut out of {type(model).__name__}: {found.refused[base.__name__]}, which a '
                'student of fewer layers does not have'
            )
    return found


def stacks_of(model: PreTrainedModel) -> dict[str, tuple[Stack, str]]:
    """Finds the stacks that a model has.

    Args:
        model: A model of a supported architecture.

    Returns:
        Each stack by its name, with the path of its layers in ``model``.

    Raises:
        ConfigError: If the layers are not where the architecture keeps them, or not as many as its config says.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    found: dict[str, tuple[Stack, str]] = {}
    for stack in architecture_of(model).stacks:
        layers = _part(model.base_model, stack.path)
        if layers is None:
            continue
        count = getattr(model.config, stack.length)
        if not isinstance(layers, nn.ModuleList) or len(layers) != count:
            has = f'{len(layers)} layers' if isinstance(layers, nn.ModuleList) else type(layers).__name__
            raise ConfigError(
                f'expected {count} layers in {paths[id(layers)]!r} of {type(model).__name__}, as its config says '
                f'({stack.length}), got {has}: cut the student out of the model as its config builds it'
            )
        found[stack.name] = (stack, paths[id(layers)])
    if not found:
        wanted = ', '.join(repr(stack.path) for stack in architecture_of(model).stacks)
        raise ConfigError(
            f'expected the layers of {type(model).__name__} in {wanted} of its base model; there are none'
        )
    return found


def _part(module: nn.Module, path: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
