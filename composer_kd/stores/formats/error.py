"""How far what a format keeps is from what the teacher said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
import torch
from torch import Tensor

from composer_kd.losses._common import bounded
from composer_kd.losses.sparse import SampledLogits, SparseLogits, coarse
from composer_kd.stores.formats.base import Format, Stored, chunks

__all__ = ['FormatError', 'distance', 'error']


@dataclass(frozen=True)
class FormatError:
    """The measured error of a format.

    Attributes:
        kl: The mean divergence KL(live || stored), in nats, at the stored temperature, or at 1 if logits are stored. Of
            the k most probable classes: with all others joined, as the loss sees it. Of draws: the mean estimate, from
            the draws, of the divergence between the live teacher and itself, whose expectation is 0.
        top1: The share of positions with the same most probable class; of draws, with the class drawn most often.
        positions: The number of positions.
    """

    kl: float
    top1: float
    positions: int

    @classmethod
    def of(cls, parts: Iterable[tuple[Tensor, Tensor]]) -> FormatError:
        """The means over all positions of what :func:`distance` found."""
        kl, same = zip((torch.zeros(0), torch.zeros(0)), *parts)
        means = [float(torch.cat([one.double().cpu() for one in values]).mean()) for values in (kl, same)]
        return cls(means[0], means[1], sum(map(len, kl)))


def error(form: Format, outputs: Tensor, head: Callable[[Tensor], Tensor] = lambda outputs: outputs) -> FormatError:
    """Measures the error of a format against the live teacher.

    Args:
        form: The format.
        outputs: ``(N, V)`` The live logits; ``(N, D)`` the live hidden states for :class:`.Hidden`.
        head: What makes logits of hidden states, live and stored.

    Returns:
        The means over the positions.

    Raises:
        StoreError: If the outputs cannot be stored in this format.

    Example:
        >>> import torch
        >>> from composer_kd.stores.formats import TopK
        >>> found = error(TopK(k=10, temperature=4.0), torch.randn(64, 100))
        >>> 0 <= found.kl < 1e-5, found.top1
        (True, 1.0)
    """
    found = []
    for part in chunks(outputs):
        live, rows = outputs[part].detach(), np.arange(len(outputs))[part]
        stored = form.decode(form.encode(live, rows), live.shape[1])
        found.append(distance(head(stored.to(live)) if isinstance(stored, Tensor) else stored, head(live)))
    return FormatError.of(found)


def distance(stored: Stored, live: Tensor) -> tuple[Tensor, Tensor]:
    """How far what is stored is from the live logits ``(N, V)``.

    Returns:
        ``(N,)`` The divergence of each position, in nats, and whether the most probable class is the same.

    Example:
        >>> live = torch.tensor([[2.0, 0.0]])
        >>> distance(live.half(), live)
        (tensor([0.], dtype=torch.float64), tensor([True]))
    """
    return _compared(stored, live.float())


@singledispatch
def _compared(stored: Stored, live: Tensor) -> tuple[Tensor, Tensor]:
    raise TypeError(f'expected logits or a sparse target, got {type(stored).__name__}')


@_compared.register
def _(stored: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    stored = stored.to(live)
    return _divergence(live, stored), live.argmax(-1) == stored.argmax(-1)


@_compared.register
def _(stored: SparseLogits, live: Tensor) -> tuple[Tensor, Tensor]:
    stored = stored.to(live.device)
    joined, kept = (logits / stored.temperature for logits in coarse(live, stored))
    top = stored.ids.gather(-1, stored.log_probs.argmax(-1, keepdim=True)).squeeze(-1)
    return _divergence(joined, kept), top == live.argmax(-1)


@_compared.register
def _(stored: SampledLogits, live: Tensor) -> tuple[Tensor, Tensor]:
    stored = stored.to(live.device)
    log_probs = (bounded(live, stored.temperature) / stored.temperature).log_softmax(-1)
    cross_entropy = -log_probs.gather(-1, stored.ids).mean(-1)
    return cross_entropy - stored.entropy, stored.ids.mode(-1).values == live.argmax(-1)


def _divergence(live: Tensor, stored: Tensor) -> Tensor:
    log_p, log_q = (bounded(logits.double()).log_softmax(-1) for logits in (live, stored))
    return (log_p.exp() * (log_p - log_q)).sum(-1)
