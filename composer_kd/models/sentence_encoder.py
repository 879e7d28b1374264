"""Sentence encoders: a vector for a text, pooled from the hidden states of a model of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from composer.models import HuggingFaceModel
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from composer_kd.errors import ConfigError, nearest
from composer_kd.models.hugging_face import Attention, words_of
from composer_kd.models.hugging_face_build import build

__all__ = ['Pooling', 'SentenceEncoder', 'hf_encoder']


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp_min(1)


def _cls(hidden: Tensor, mask: Tensor) -> Tensor:
    first = mask.long().argmax(1)  # padding may be on the left
    return hidden[torch.arange(len(hidden), device=hidden.device), first]


_WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {'mean': _mean, 'cls': _cls}


class Pooling(nn.Module):
    """One vector for each text, from the hidden states of its tokens.

    Args:
        way: ``'mean'`` over the tokens that the attention mask includes; ``'cls'``: the first of them.
        normalize: Whether vectors have length 1.

    Raises:
        ConfigError: If there is no such way.

    Example:
        >>> hidden = torch.tensor([[[3.0, 4.0], [9.0, 9.0]]])
        >>> Pooling('mean', normalize=True)(hidden, torch.tensor([[1, 0]]))
        tensor([[0.6000, 0.8000]])
    """

    def __init__(self, way: str, normalize: bool) -> None:
        super().__init__()
        if way not in _WAYS:
            raise ConfigError(f'pooling: expected one of {list(_WAYS)}, got {way!r}{nearest(str(way), _WAYS)}')
        self.way, self.normalize = way, normalize

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pools in float32 at least.

        Args:
            hidden: ``(B, S, D)`` The hidden states.
            mask: ``(B, S)`` Nonzero at the tokens of a text.

        Returns:
            ``(B, D)``
        """
        wide = torch.promote_types(hidden.dtype, torch.float32)
        vectors = _WAYS[self.way](hidden.to(wide), mask != 0)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def extra_repr(self) -> str:
        """How it pools."""
        return f'{self.way}, normalize={self.normalize}'


class SentenceEncoder(nn.Module):
    """A model of transformers with a pooling of its hidden states.

    Its output is a mapping with the vectors ``(B, D)`` under ``logits``, where losses without a layer look for what is
    compared. The layer ``embedding`` has them too, for a match with a projector.

    Args:
        encoder: A model that returns hidden states, such as ``transformers.BertModel``; its pooler is not used.
        pooling: ``'mean'`` or ``'cls'``.
        normalize: Whether vectors have length 1.

    Example:
        >>> import transformers
        >>> sizes = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8}
        >>> net = SentenceEncoder(transformers.BertModel(transformers.BertConfig(vocab_size=9, **sizes)))
        >>> net(torch.ones(2, 5, dtype=torch.long))['logits'].shape
        torch.Size([2, 8])
    """

    def __init__(self, encoder: Any, pooling: str = 'mean', normalize: bool = True) -> None:
        super().__init__()
        if encoder.config.is_encoder_decoder:
            raise ConfigError(f'{type(encoder).__name__} has a decoder; give the encoder alone, such as T5EncoderModel')
        if getattr(encoder, 'pooler', None) is not None:
            encoder = _without_pooler(encoder)
        self.encoder, self.config = encoder, encoder.config
        self.embedding = Pooling(pooling, normalize)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Computes the vectors of texts.

        Args:
            input_ids: ``(B, S)``
            attention_mask: ``(B, S)``; ``None`` if nothing is padding.
            token_type_ids: ``(B, S)``; ``None`` for the model's default.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        kinds = {} if token_type_ids is None else {'token_type_ids': token_type_ids}
        hidden = self.encoder(input_ids=input_ids, attention_mask=mask, **kinds)[0]
        return {'logits': self.embedding(hidden, mask)}


def _without_pooler(encoder: Any) -> Any:
    """The same layers in a module without the pooler, which would get no gradient, and ranks wait for one."""
    same = copy.copy(encoder)
    same._modules = {**encoder._modules, 'pooler': None}
    return same


class _ForComposer(HuggingFaceModel):
    """A sentence encoder for Composer: it has no loss and no metrics of its own, and needs no labels."""

    embeds = True
    """What it answers are vectors: two models are compared by directions and similarities, not by classes."""

    def valid_positions(self, batch: Any) -> None:
        """All: a vector is of a whole text."""

    @override
    def eval_forward(self, batch: Any, outputs: Any = None) -> Any:
        return self.forward(batch) if outputs is None else outputs

    @override
    def get_metrics(self, is_train: bool = False) -> dict[str, Metric]:
        return {}

    @override
    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> Tensor:
        return outputs['logits'].new_zeros(())


def hf_encoder(
    pretrained: str | nn.Module | None = None,
    pooling: Literal['mean', 'cls'] = 'mean',
    normalize: bool = True,
    tokenizer: str | None = None,
    architecture: str | None = None,
    config: dict[str, Any] | None = None,
    attention: Attention | None = None,
) -> HuggingFaceModel:
    """Builds a sentence encoder (``AutoModel`` with a pooling), which learns from another's vectors and has no loss.

    Batches have ``input_ids`` and ``attention_mask`` ``(B, S)``; labels have no effect. Train it with
    ``org_loss_weight=0``: by a loss of vectors (``cosine``, ``mse``, ``similarity_preserving``), or by
    ``Match(loss, on='embedding', project='auto')`` where the widths differ. ``run_teacher_on_eval`` logs how well the
    vectors agree with the teachers'.

    Args:
        pretrained: As for :func:`.hf_classifier`.
        pooling: ``'mean'`` over the tokens of a text, or ``'cls'``, its first token.
        normalize: Whether vectors have length 1.
        tokenizer: As for :func:`.hf_classifier`.
        architecture: As for :func:`.hf_classifier`.
        config: As for :func:`.hf_classifier`.
        attention: As for :func:`.hf_classifier`.

    Returns:
        The model.

    Raises:
        ConfigError: As for :func:`.hf_classifier`.

    Example:
        >>> tiny = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8}
        >>> model = hf_encoder(architecture='bert', config=tiny)
        >>> model({'input_ids': torch.ones(2, 5, dtype=torch.long)})['logits'].norm(dim=1).round(decimals=4)
        tensor([1., 1.], grad_fn=<RoundBackward1>)
    """
    built = build('AutoModel', pretrained, architecture, config, attention)
    words = words_of(built, tokenizer)
    return _ForComposer(SentenceEncoder(built.model, pooling, normalize), words, use_logits=False)
