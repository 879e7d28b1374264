"""How well language models predict the tokens of the evaluation data: cross-entropy and perplexity, and differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from composer_kd.reports.groups import Group
from composer_kd.reports.statistics import Difference, Estimate, difference_of_answers, difference_of_runs
from composer_kd.reports.token_loss import TokenLosses

__all__ = ['cross_entropy', 'loss_difference', 'perplexity', 'predicts_tokens']


def cross_entropy(group: Group) -> Estimate | None:
    """The mean over the runs of a group of the nats per token; None if a run has none."""
    found = [one.token_losses for one in group.members]
    return Estimate.of([one.mean for one in found if one is not None]) if found and all(found) else None


def perplexity(group: Group) -> float | None:
    """exp of the cross-entropy; None if it is unknown, or too large for a number."""
    found = cross_entropy(group)
    return None if found is None or not found.mean < _MOST else math.exp(found.mean)


_MOST = 700.0


def predicts_tokens(groups: Sequence[Group]) -> bool:
    """Whether the cross-entropy of the tokens of some model is known."""
    return any(cross_entropy(one) is not None for one in groups)


def loss_difference(mine: Group, theirs: Group, in_pairs: bool = False) -> Difference | None:
    """Compares the cross-entropies of two groups.

    Args:
        mine: The first group.
        theirs: The second group.
        in_pairs: Whether seeds are compared, if both have several; otherwise the texts.

    Returns:
        The nats per token of the first minus those of the second, with a 95 % interval over seeds or texts; None if it
        is unknown, or the two predict other tokens.
    """
    if in_pairs:
        by_seed = [
            {one.seed: one.token_losses.mean for one in each.members if one.token_losses is not None}
            for each in (mine, theirs)
        ]
        found = (
            difference_of_runs(by_seed[0], by_seed[1], limit=math.inf)
            if all(None not in one for one in by_seed)
            else None
        )
        if found is not None:
            return found
    losses = [[one.token_losses for one in each.members if one.token_losses is not None] for each in (mine, theirs)]
    if not all(losses) or not _same_tokens([*losses[0], *losses[1]]):
        return None
    # A text counts by its tokens: the mean over texts of these shares is the difference over all tokens.
    scale = losses[0][0].tokens.mean()
    shares = [np.mean([one.nll for one in each], axis=0) / scale for each in losses]
    difference = difference_of_answers(shares[0], shares[1], limit=math.inf)
    return (
        None
        if difference is None
        else Difference(difference.mean, difference.low, difference.high, difference.over.replace('samples', 'texts'))
    )


def _same_tokens(losses: Sequence[TokenLosses]) -> bool:
    return all(np.array_equal(losses[0].tokens, one.tokens) for one in losses)
