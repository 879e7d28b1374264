"""Masks tokens for masked language models, as a function of a seed for each sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from composer_kd.data.counter_random import uniforms

__all__ = ['mask_tokens']

_MASKED, _RANDOM = 0.8, 0.9  # of the chosen tokens 80 % are masked, 10 % random, 10 % as they were


def mask_tokens(
    ids: NDArray[np.int64],
    maskable: NDArray[np.bool_],
    seeds: NDArray[np.uint64],
    probability: float,
    mask_token: int,
    vocabulary: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Masks tokens as BERT does (Devlin et al., arXiv 1810.04805).

    Each token is chosen with a probability, and at least one of each sample. Of the chosen ones 80 % become the mask
    token, 10 % a random token, and 10 % stay.

    Args:
        ids: ``(B, S)`` The tokens.
        maskable: ``(S,)`` or ``(B, S)`` Which positions may be chosen; at least one of each sample.
        seeds: uint64 ``(B,)``, such as those of :func:`.sample_seeds`.
        probability: The probability that a token is chosen.
        mask_token: The number of the mask token.
        vocabulary: Random tokens are numbers below it.

    Returns:
        The inputs ``(B, S)``; and the labels ``(B, S)``: the token that was there where one is chosen, -100 elsewhere.

    Example:
        >>> from composer_kd.data.counter_random import sample_seeds
        >>> ids = np.arange(10, 18)[None]
        >>> inputs, labels = mask_tokens(ids, np.ones(8, bool), sample_seeds(0, 1, [7]), 0.3, 3, 100)
        >>> inputs.tolist(), labels.tolist()
        ([[10, 11, 12, 13, 3, 15, 16, 3]], [[-100, -100, -100, -100, 14, -100, -100, 17]])
    """
    length = ids.shape[1]
    draws = uniforms(seeds, 3 * length).reshape(len(ids), 3, length)
    first = np.where(maskable, draws[:, 0], 2.0)
    chosen = first < probability
    chosen[np.arange(len(ids)), first.argmin(1)] = True
    random = (draws[:, 2] * vocabulary).astype(np.int64)
    replaced = np.where(draws[:, 1] < _MASKED, mask_token, np.where(draws[:, 1] < _RANDOM, random, ids))
    return np.where(chosen, replaced, ids), np.where(chosen, ids, -100)
