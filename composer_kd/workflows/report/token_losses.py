"""Computes the cross-entropy of a language model on each text of the evaluation data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from composer_kd.batches.contents import IGNORE
from composer_kd.batches.masks import aligned_labels
from composer_kd.deploy import Inference
from composer_kd.reports.token_loss import TokenLosses

__all__ = ['has_token_labels', 'token_losses']


def has_token_labels(logits: Tensor, labels: Tensor | None) -> bool:
    """Whether the output of a model is one distribution ``(B, S, V)`` for each token of the labels ``(B, S)``.

    Example:
        >>> has_token_labels(torch.zeros(2, 5, 11), torch.zeros(2, 5, dtype=torch.long))
        True
    """
    return (
        labels is not None and logits.ndim == 3 and not labels.is_floating_point() and labels.shape == logits.shape[:2]
    )


def token_losses(inference: Inference, batches: Iterable[Any], device: torch.device) -> TokenLosses | None:
    """Computes the negative log-likelihood of the labelled tokens of each text.

    Args:
        inference: The model, on the device.
        batches: The evaluation data.
        device: The device.

    Returns:
        The sums by text; None if the model answers at other positions than those of the labels, or no token has one.
    """
    sums: list[float] = []
    counts: list[int] = []
    for batch in batches:
        labels = aligned_labels(batch, inference.form)
        with torch.no_grad():
            logits = inference(*(tensor.to(device) for tensor in inference.inputs_of(batch)))
        if labels is None or not has_token_labels(logits, labels):
            return None
        for answer, wanted in zip(logits, labels):  # text by text: the logits of a batch may be large
            known = wanted != IGNORE
            logarithms = answer[known.to(device)].double().log_softmax(-1)
            picked = logarithms.gather(1, wanted[known].long().to(device)[:, None])
            sums.append(-picked.sum().item())
            counts.append(int(known.sum()))
    return TokenLosses(np.array(sums), np.array(counts)) if sum(counts) else None
