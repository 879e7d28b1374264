"""Finds out whether a loss compares a softmax over the classes, by what it returns."""

from __future__ import annotations

import torch
from torch import Tensor

from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import LossError
from composer_kd.losses._common import at_least_float32
from composer_kd.matches.loss_adapter import LossAdapter

__all__ = ['ignores_level']


def ignores_level(adapter: LossAdapter, logits: Tensor) -> bool:
    """Whether a loss stays as it is when a number is added to all classes of a sample, as any loss of a softmax does.

    Each sample gets another number: losses of the differences between samples change with them.

    Args:
        adapter: The loss; copies of it are called, if it is known that this leaves no trace.
        logits: Some logits ``(B, C)``, without gradient.

    Returns:
        The answer; ``False`` for a loss of the user's own, and for one that needs more than logits and labels.

    Example:
        >>> from composer_kd.losses import KLDivergence, mse
        >>> logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 4.0]])
        >>> ignores_level(LossAdapter(KLDivergence()), logits), ignores_level(LossAdapter(mse), logits)
        (True, False)
    """
    if not adapter.is_known:
        return False
    rows = at_least_float32(logits)
    micro = Microbatch((rows, torch.zeros(len(rows), dtype=torch.long, device=rows.device)), 0)
    levels = torch.arange(1.0, len(rows) + 1, device=rows.device, dtype=rows.dtype).unsqueeze(-1)
    try:
        once, again = (
            adapter.detached_copy().of_logits(rows + by * levels, rows.flip(-1), micro)[0] for by in (0.0, 1.0)
        )
    except LossError:
        return False
    return bool(torch.isclose(once, again, rtol=1e-4, atol=1e-6))
