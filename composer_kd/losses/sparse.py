"""Distributions over classes of which a few are known, as stored teachers have them, and losses between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from composer_kd.losses._common import at_least_float32, bounded, check_number, least_logit
from composer_kd.losses._once import once_only

__all__ = [
    'SampledLogits',
    'SparseLogits',
    'SparseTarget',
    'TeacherLogits',
    'coarse',
    'drawn_log_probs',
    'sample_logits',
    'top_logits',
]

_CHUNK = 2**18  # elements of the student's logits that are read at once
_BLOCK, _FEW = 64, 2  # of a row in which the largest are searched: elements, and least number of blocks for each
_LN2 = math.log(2.0)
_Same = TypeVar('_Same', bound='SparseTarget')


@dataclass(frozen=True)
class SparseTarget:
    """A teacher's distribution over classes of which a few are known.

    Attributes:
        ids: ``(..., k)`` The known classes, int64.
        classes: The number of all classes, ``V``.
        temperature: The temperature ``T`` of the softmax that made the distribution; a loss must use the same.
    """

    ids: Tensor
    classes: int
    temperature: float

    @property
    def shape(self) -> torch.Size:
        """The shape of the dense logits that this stands for, ``(..., V)``."""
        return torch.Size((*self.ids.shape[:-1], self.classes))

    def rows(self: _Same) -> _Same:
        """The same with the positions in one dimension, ``(N, ...)``."""
        return self.each(lambda tensor, own: tensor.reshape(-1, *tensor.shape[tensor.ndim - own :]))

    def at(self: _Same, mask: Tensor) -> _Same:
        """The positions at which a mask, booleans ``(N,)``, is true."""
        return self.each(lambda tensor, own: tensor[mask])

    def to(self: _Same, device: torch.device) -> _Same:
        """The same on a device."""
        return self.each(lambda tensor, own: tensor.to(device, non_blocking=True))

    def each(self: _Same, change: Callable[[Tensor, int], Tensor]) -> _Same:
        """The same with each tensor changed; ``own`` is the number of its dimensions behind the positions."""
        positions = self.ids.ndim - 1
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {n: change(t, t.ndim - positions) for n, t in parts.items() if isinstance(t, Tensor)}
        return replace(self, **changed)


@dataclass(frozen=True)
class SparseLogits(SparseTarget):
    """The probabilities of some classes, and of all others together.

    Attributes:
        log_probs: ``(..., k)`` The logarithms of their probabilities at the temperature, in nats.
        log_rest: ``(...,)`` The logarithm of the probability of all other classes together; minus infinity if there are
            none.

    Example:
        >>> target = top_logits(torch.tensor([[3.0, 2.0, 1.0, 0.0]]), k=2, temperature=1.0)
        >>> target.ids.tolist(), target.shape
        ([[0, 1]], torch.Size([1, 4]))
        >>> round((target.log_probs.exp().sum() + target.log_rest.exp()).item(), 5)
        1.0
    """

    log_probs: Tensor
    log_rest: Tensor

    @property
    def is_complete(self) -> bool:
        """Whether all classes are known, so that the logits are too, and any temperature may be taken."""
        return self.ids.shape[-1] == self.classes

    def dense(self) -> Tensor:
        """The logits ``(..., V)`` of a complete distribution, up to a constant for each position."""
        logits = bounded(at_least_float32(self.log_probs)) * self.temperature
        return torch.empty(self.shape, dtype=logits.dtype, device=logits.device).scatter_(-1, self.ids, logits)


@dataclass(frozen=True)
class SampledLogits(SparseTarget):
    """Classes drawn at random from the distribution, with replacement.

    Attributes:
        entropy: ``(...,)`` The entropy of the distribution, in nats; what a Kullback-Leibler divergence needs besides
            the cross-entropy of the draws.

    Example:
        >>> draws = sample_logits(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.1, 0.4, 0.7]]), temperature=1.0)
        >>> draws.ids.tolist(), round(draws.entropy.item(), 3)
        ([[0, 0, 1]], 0.693)
    """

    entropy: Tensor


TeacherLogits: TypeAlias = Tensor | SparseTarget
"""What a teacher says of the classes: logits, or what a stored teacher kept of them."""


def top_logits(logits: Tensor, k: int, temperature: float) -> SparseLogits:
    """Keeps the k most probable classes, and the probability of all others together.

    Args:
        logits: ``(..., V)``
        k: The number of classes that are kept, at most ``V``.
        temperature: ``T``.

    Returns:
        The classes in descending order of their probability; float32.
    """
    logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    values, ids = _largest(logits, k)
    values = bounded(values, temperature)
    largest = values[..., :1]
    log_probs = (values - largest) / temperature
    # One pass of exponentials, in place, in the stead of two logsumexp: at vocabulary size these are most of the time.
    others = logits - largest
    others = (others if temperature == 1.0 else others.div_(temperature)).exp_().scatter_(-1, ids, 0.0).sum(-1)
    log_total = (log_probs.exp().sum(-1) + others).log()
    log_others = others.log()
    vanished = others < torch.finfo(others.dtype).tiny
    if k < logits.shape[-1] and vanished.any():  # too small as probabilities: their logarithms are summed
        scaled = _scaled(logits[vanished], temperature).scatter_(-1, ids[vanished], -torch.inf)
        log_others[vanished] = scaled.logsumexp(-1) - largest[vanished].squeeze(-1) / temperature
    return SparseLogits(ids, logits.shape[-1], temperature, log_probs - log_total.unsqueeze(-1), log_others - log_total)


def sample_logits(logits: Tensor, uniform: Tensor, temperature: float) -> SampledLogits:
    """Draws n classes from the softened probabilities, with replacement.

    Anshumann et al., *Sparse Logit Sampling* (arXiv 2503.16870): the mean over the draws of the cross-entropy has the
    gradient of the full one as its expectation.

    Args:
        logits: ``(..., V)``
        uniform: ``(..., n)`` Numbers drawn uniformly from [0, 1), float64 for more than 2 :sup:`16` classes.
        temperature: ``T``.

    Returns:
        The draws in ascending order; the entropy in float32.
    """
    log_probs = _scaled(logits, temperature).log_softmax(-1)
    probs = log_probs.exp()
    upto = probs.to(uniform.dtype).cumsum(-1)
    drawn = torch.searchsorted(upto, uniform * upto[..., -1:], right=True).clamp(max=logits.shape[-1] - 1)
    return SampledLogits(drawn.sort(-1).values, logits.shape[-1], temperature, -(probs * log_probs).sum(-1))


def coarse(student: Tensor, target: SparseLogits) -> tuple[Tensor, Tensor]:
    r"""Both distributions over the known classes and one more, which all other classes are together.

    A divergence of the two is that of the models after the other classes were joined: it is zero where the joined
    distributions are equal, and at most that of all classes. They are returned as logits, :math:`T \log p`, so a loss
    that divides by the stored temperature sees these probabilities.

    Args:
        student: ``(..., V)`` The student's logits, of N positions together.
        target: The teacher's distribution, ``(N, ...)``.

    Returns:
        Student and teacher, ``(N, k + 1)`` each, or ``(N, k)`` if all classes are known; float32 at least.

    Example:
        >>> logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
        >>> student, teacher = coarse(logits, top_logits(logits, 2, temperature=2.0))
        >>> torch.allclose(student, teacher, atol=1e-6)
        True
    """
    check_number('coarse', 'temperature', target.temperature)
    known, rest = _Coarse.apply(student, target.ids, target.temperature)
    teacher = at_least_float32(target.log_probs)
    if target.ids.shape[-1] < target.classes:
        known = torch.cat([known, rest.unsqueeze(-1)], -1)
        teacher = torch.cat([teacher, at_least_float32(target.log_rest).unsqueeze(-1)], -1)
    return known * target.temperature, bounded(teacher) * target.temperature


def drawn_log_probs(student: Tensor, target: SampledLogits) -> Tensor:
    """The student's log-probabilities of the classes that were drawn from the teacher, at the stored temperature.

    Args:
        student: ``(N, V)`` The student's logits.
        target: The draws, of N positions.

    Returns:
        ``(N, n)``, float32 at least.
    """
    scaled = bounded(at_least_float32(student), target.temperature) / target.temperature
    return scaled.gather(-1, target.ids) - scaled.logsumexp(-1, keepdim=True)


class _Coarse(torch.autograd.Function):
    """The student's log-probabilities of given classes, and of all others together, in chunks of rows.

    The probability of the others is summed over them, not taken as 1 minus that of the given ones, which would lose
    all digits where the given ones have nearly all of it. Exponentials have base 2, as in the fused losses.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        student = logits.reshape(-1, logits.shape[-1])
        dtype = torch.promote_types(student.dtype, torch.float32)
        known = torch.empty(ids.shape, dtype=dtype, device=student.device)
        rest = torch.empty(ids.shape[:1], dtype=dtype, device=student.device)
        for rows, scaled in _in_base_2(student, temperature, dtype):
            torch.gather(scaled, -1, ids[rows], out=known[rows])
            scaled.scatter_(-1, ids[rows], -torch.inf)
            top = scaled.amax(-1, keepdim=True)
            # A row without others has no top that may be subtracted from minus infinity.
            others = scaled.sub_(top.clamp(min=torch.finfo(dtype).min)).exp2_().sum(-1)
            torch.add(others.log2_(), top.squeeze(-1), out=rest[rows])
        log_known, log_rest = known.mul_(_LN2), rest * _LN2
        total = torch.logaddexp(log_known.logsumexp(-1), log_rest)
        log_known, log_rest = log_known - total.unsqueeze(-1), log_rest - total
        ctx.save_for_backward(logits, ids, log_known, log_rest, rest)
        ctx.temperature = temperature
        return log_known, log_rest

    @staticmethod
    @once_only('The loss of a sparse target', 'Use a stored teacher of the format dense, or a live one.')
    def backward(ctx: Any, of_known: Tensor, of_rest: Tensor) -> tuple[Tensor | None, ...]:
        logits, ids, log_known, log_rest, rest = ctx.saved_tensors
        student = logits.reshape(-1, logits.shape[-1])
        # In the shape of the logits, not a view: then autograd adds the task loss's gradient in place.
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        by_row = gradient.view(student.shape)
        both = of_known.sum(-1) + of_rest
        # Each of the others has its share of what they get together: of minus infinity, where there are none, nothing.
        of_others = torch.where(rest.isinf(), 0.0, of_rest - log_rest.exp() * both).div_(ctx.temperature).unsqueeze(-1)
        rest = torch.where(rest.isinf(), 0.0, rest).unsqueeze(-1)
        of_known = (of_known - log_known.exp() * both.unsqueeze(-1)).div_(ctx.temperature)
        for rows, scaled in _in_base_2(student, ctx.temperature, rest.dtype):
            scaled.sub_(rest[rows]).exp2_().mul_(of_others[rows])
            by_row[rows] = scaled.scatter_(-1, ids[rows], of_known[rows])
        return gradient, None, None


def _in_base_2(logits: Tensor, temperature: float, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Rows of logits ``(N, V)`` divided by ``T log 2``, a chunk at a time, in a buffer that may be overwritten."""
    chunks = _chunks(logits)
    buffer = torch.empty_like(logits[chunks[0]], dtype=dtype) if chunks else logits
    for rows in chunks:
        part = logits[rows]
        scaled = buffer[: len(part)]
        if part.dtype != dtype:
            part = scaled.copy_(part)
        torch.clamp(part, min=least_logit(temperature), out=scaled)
        yield rows, scaled.mul_(1 / (temperature * _LN2))


def _largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row in descending order, and their places.

    Of long rows the k blocks with the largest maxima are searched alone: the k largest are among them.
    """
    blocks = logits.shape[-1] // _BLOCK
    if blocks < _FEW * k:
        top = logits.topk(k, dim=-1)
        return top.values, top.indices
    whole = blocks * _BLOCK
    found = logits[..., :whole].unflatten(-1, (blocks, _BLOCK)).amax(-1).topk(k, dim=-1).indices
    places = torch.arange(_BLOCK, device=logits.device)
    ids = (found.unsqueeze(-1) * _BLOCK + places).flatten(-2)
    left = torch.arange(whole, logits.shape[-1], device=logits.device)
    ids = torch.cat([ids, left.expand(*ids.shape[:-1], -1)], -1)
    top = logits.gather(-1, ids).topk(k, dim=-1)
    return top.values, ids.gather(-1, top.indices)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return bounded(logits.detach().to(dtype), temperature).div_(temperature)


def _chunks(rows: Tensor) -> list[slice]:
    step = max(1, _CHUNK // max(1, rows.shape[1])) if rows.device.type == 'cpu' else max(1, rows.shape[0])
    return [slice(start, start + step) for start in range(0, rows.shape[0], step)]
