"""The cross-entropy of a language model on each text of the evaluation set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ['TokenLosses']


@dataclass(frozen=True)
class TokenLosses:
    """The negative log-likelihood of the labelled tokens of each text.

    Args:
        nll: ``(N,)`` The sum over the labelled tokens of a text, in nats.
        tokens: ``(N,)`` The number of these tokens.

    Example:
        >>> TokenLosses(np.array([2.0, 6.0]), np.array([1, 3])).mean
        2.0
    """

    nll: np.ndarray
    tokens: np.ndarray

    @property
    def mean(self) -> float:
        """The cross-entropy: the mean over all tokens, in nats."""
        return float(self.nll.sum() / self.tokens.sum())
