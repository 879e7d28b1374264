"""Prompts of a batch of texts, and the batch in which other continuations follow them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from composer_kd.batches.contents import IGNORE, labels_of
from composer_kd.batches.format import BatchFormat
from composer_kd.errors import ConfigError

__all__ = ['decoded', 'extended', 'padded', 'prompts_of', 'sources_of']

_OF_TEXTS = ('input_ids', 'attention_mask', 'labels')
_OF_DECODERS = ('labels', 'decoder_input_ids', 'decoder_attention_mask')


def prompts_of(batch: Mapping[str, Any], form: BatchFormat, length: int | None) -> tuple[Tensor, Tensor]:
    """Finds the prompts in a batch of texts: what comes before the first token with a label, or the first tokens.

    Args:
        batch: ``input_ids`` ``(B, S)``, padded on any side, ``attention_mask`` if there is padding, and ``labels``
            ``(B, S)``, -100 in the prompt. A text without any label is a prompt as a whole.
        form: The format of batches.
        length: The number of tokens of each prompt, whatever the labels say; ``None`` to find it by the labels.

    Returns:
        The prompts ``(B, P)``, padded on the left to the longest; and booleans ``(B, P)``, false at padding.

    Raises:
        ConfigError: If a prompt is empty, or the batch has something of each token that new tokens do not have.

    Example:
        >>> ids = torch.tensor([[5, 6, 7, 0], [5, 8, 9, 4]])
        >>> labels = torch.tensor([[-100, 6, 7, -100], [-100, -100, 9, 4]])
        >>> prompts_of({'input_ids': ids, 'labels': labels}, BatchFormat(), None)[0]
        tensor([[0, 5],
                [5, 8]])
    """
    ids = _ids(batch)
    others = [
        name
        for name, value in batch.items()
        if name not in _OF_TEXTS and isinstance(value, Tensor) and value.shape[:2] == ids.shape
    ]
    if others:
        raise ConfigError(
            f'on_policy: the batch has {", ".join(map(repr, others))} of each token, which is not known of tokens that '
            'the student makes. Leave them out of the data; samples that are packed with positions of their own must '
            'be samples apart.'
        )
    attended = batch['attention_mask'] != 0 if 'attention_mask' in batch else torch.ones_like(ids, dtype=torch.bool)
    if length is not None:
        prompt = attended & (attended.long().cumsum(1) <= length)
    else:
        labels = labels_of(batch)
        if labels is None or labels.shape != ids.shape:
            raise ConfigError(
                'on_policy: the batch does not say where its prompts end. Give it labels that are -100 in the prompt, '
                'or say how many tokens a prompt has: prompt_length of on_policy.'
            )
        labelled = (labels >= 0) & (labels != form.ignore_index) & attended
        prompt = attended & (labelled.long().cumsum(1) == 0)
    lengths = prompt.sum(1)
    if int(lengths.min()) == 0:
        raise ConfigError(
            'on_policy: a text has no prompt, for its first token has a label already (or it has no token). Give it '
            'labels that are -100 in the prompt; for texts that are packed into blocks say how many tokens of each '
            'block are the prompt: prompt_length of on_policy.'
        )
    order = prompt.long().argsort(dim=1, stable=True)[:, -int(lengths.max()) :]
    mask = prompt.gather(1, order)
    return torch.where(mask, ids.gather(1, order), 0), mask


def extended(
    batch: Mapping[str, Any], prompts: Tensor, mask: Tensor, new: Tensor, made: Tensor, pad: int
) -> dict[str, Any]:
    """The batch of prompts with their continuations, which alone have labels; padded on the right.

    Padding on the right gives each token the position that it has by itself, whatever a model makes of padding.

    Args:
        batch: The batch that the prompts are of.
        prompts: ``(B, P)`` The prompts, from :func:`prompts_of`.
        mask: ``(B, P)`` Booleans, false at padding.
        new: ``(B, N)`` The new tokens.
        made: ``(B, N)`` Booleans, false after the end of a text.
        pad: The token of padding.

    Returns:
        The batch as a dict, with all that is not of tokens as it was.

    Example:
        >>> one = torch.tensor([[0, 5], [6, 7]]), torch.tensor([[False, True], [True, True]])
        >>> two = torch.tensor([[8, 9], [4, 0]]), torch.tensor([[True, True], [True, False]])
        >>> extended({}, *one, *two, pad=0)['labels']
        tensor([[-100,    8,    9],
                [-100, -100,    4]])
    """
    valid, own = torch.cat([mask, made], 1), torch.cat([torch.zeros_like(mask), made], 1)
    order = (~valid).long().argsort(dim=1, stable=True)[:, : int(valid.sum(1).max())]
    valid, own = valid.gather(1, order), own.gather(1, order)
    ids = torch.cat([prompts, new], 1).gather(1, order).masked_fill(~valid, pad)
    return {**batch, 'input_ids': ids, 'attention_mask': valid.long(), 'labels': ids.masked_fill(~own, IGNORE)}


def sources_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What the encoder of an encoder-decoder gets of a batch: all but labels and what is for the decoder.

    Example:
        >>> sources_of({'input_ids': 1, 'labels': 2, 'decoder_input_ids': 3})
        {'input_ids': 1}
    """
    return {name: value for name, value in batch.items() if name not in _OF_DECODERS}


def decoded(batch: Mapping[str, Any], new: Tensor, made: Tensor) -> dict[str, Any]:
    """The batch of an encoder-decoder whose targets are new tokens. The model makes the decoder's inputs of them.

    Args:
        batch: The batch that the sources are of.
        new: ``(B, N)`` The new tokens, without the one that the decoder starts with.
        made: ``(B, N)`` Booleans, false after the end of a text.

    Returns:
        The batch as a dict.

    Example:
        >>> decoded({'input_ids': torch.ones(1, 2)}, torch.tensor([[8, 0]]), torch.tensor([[True, False]]))['labels']
        tensor([[   8, -100]])
    """
    return {**sources_of(batch), 'labels': new.masked_fill(~made, IGNORE)}


def padded(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """New tokens of several parts of a batch, and which are made, as those of the whole: padded to the longest.

    Example:
        >>> parts = [(torch.ones(1, n, dtype=torch.long), torch.ones(1, n, dtype=torch.bool)) for n in (1, 2)]
        >>> padded(parts)[0]
        tensor([[1, 0],
                [1, 1]])
    """
    most = max(tokens.shape[1] for tokens, _ in parts)
    wide = [[torch.nn.functional.pad(one, (0, most - one.shape[1])) for one in part] for part in parts]
    return torch.cat([tokens for tokens, _ in wide]), torch.cat([made for _, made in wide])


def _ids(batch: Any) -> Tensor:
    ids = batch.get('input_ids') if isinstance(batch, Mapping) else None
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        raise ConfigError('on_policy: expected batches with input_ids (B, S), as models of transformers take them')
    return ids
