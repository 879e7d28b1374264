"""Logits as hidden states and the linear head that makes them, and losses of them in chunks of positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import at_least_float32, full_precision, valid
from composer_kd.losses._deferred import DeferredLogits, LinearLogits, MeanLogits
from composer_kd.losses._once import once_only
from composer_kd.losses.sparse import SparseTarget, TeacherLogits

__all__ = ['AnyLogits', 'DeferredLogits', 'LinearLogits', 'MeanLogits', 'in_chunks', 'sum_in_chunks']

_CHUNK = {'cpu': 2**23}  # logits of a chunk: at a vocabulary of 2^17, 64 positions
_CHUNK_ELSEWHERE = 2**26


AnyLogits: TypeAlias = TeacherLogits | DeferredLogits
"""What a teacher says of the classes, or hidden states of which it is computed."""

RowLoss: TypeAlias = Callable[..., Tensor]


def in_chunks(
    loss: RowLoss,
    student: LinearLogits,
    teacher: AnyLogits | None = None,
    mask: Tensor | None = None,
    **rows: Tensor,
) -> Tensor:
    """Computes a loss of a linear head's logits, and its gradient, without ever holding all logits.

    The logits of a chunk of positions are made, the loss of the chunk and its gradient with respect to them follow, and
    the gradients of hidden states, weights and bias are added up; the backward pass only scales these. The value and
    its gradients are those of ``loss(student.dense(), teacher.dense())`` up to rounding.

    Besides the gradients of the head's weights, in float32 at least, it takes the memory of a few chunks:
    of 2 :sup:`23` logits on a CPU, 2 :sup:`26` on other devices. The head's product is computed once, as without
    chunks; under autocast in its dtype. See ``benchmarks/linear_head.py``.

    Args:
        loss: ``(student, **rows) -> scalar`` or, with a teacher, ``(student, teacher, **rows) -> scalar``: a mean over
            positions, of logits ``(n, V)``. It may add up several losses, as of labels and of a teacher.
        student: The student's logits, of N positions in any number of dimensions.
        teacher: The teacher's at the same positions: logits ``(..., V)``, hidden states with their head, or what a
            stored teacher kept (which the loss gets as it is). No gradient reaches it.
        mask: Which positions count: booleans (or integers 0 and 1) of the logits' shape without the last dimension, or
            flat. The others are not computed at all. If none counts, the loss is 0.
        **rows: What the loss takes besides, one entry for each of the N positions, such as ``labels``.

    Returns:
        The mean of the loss over the positions that count; a scalar.

    Raises:
        ValueError: If the teacher, the mask or another argument has other positions, the loss compares positions with
            one another, has weights that are trained, or does not depend on the student.

    Example:
        >>> from composer_kd.losses import KLDivergence
        >>> _ = torch.manual_seed(0)
        >>> head, old_head = torch.nn.Linear(8, 50), torch.nn.Linear(16, 50)
        >>> hidden, old_hidden = torch.randn(4, 6, 8, requires_grad=True), torch.randn(4, 6, 16)
        >>> student = LinearLogits(hidden, head.weight, head.bias)
        >>> loss = in_chunks(KLDivergence(2.0), student, LinearLogits(old_hidden, old_head.weight, old_head.bias))
        >>> loss.backward()
        >>> whole = KLDivergence(2.0)(head(hidden), old_head(old_hidden))
        >>> torch.allclose(loss, whole), torch.allclose(hidden.grad, torch.autograd.grad(whole, hidden)[0], atol=1e-7)
        (True, True)
    """
    _check_loss(loss)
    if teacher is None:
        return sum_in_chunks(lambda student, **given: {'total': loss(student, **given)}, student, mask, **rows)['total']

    def total(student: Tensor, teacher: Any, **given: Any) -> dict[str, Tensor]:
        return {'total': loss(student, teacher, **given)}

    return sum_in_chunks(total, student, mask, teacher=teacher, **rows)['total']


def sum_in_chunks(
    losses: Callable[..., Mapping[str, Tensor]],
    student: LinearLogits,
    mask: Tensor | None = None,
    **rows: AnyLogits,
) -> dict[str, Tensor]:
    """Computes several losses of a linear head's logits in one pass over the positions, and the gradient of their sum.

    Args:
        losses: ``(student, **rows) -> {'total': scalar, ...}``: means over positions, of logits ``(n, V)``. The
            gradient is that of ``total``, which may add up the others.
        student: As for :func:`in_chunks`.
        mask: As for :func:`in_chunks`.
        **rows: What the losses take besides, one entry for each of the N positions: labels, or teachers as
            :func:`in_chunks` takes them.

    Returns:
        The mean of each over the positions that count, scalars; those besides ``total`` without a graph. If no position
        counts, ``total`` alone, 0.

    Raises:
        ValueError: If an argument has other positions, or ``total`` does not depend on the student.

    Example:
        >>> student = LinearLogits(torch.ones(4, 8), torch.zeros(50, 8, requires_grad=True))
        >>> def losses(student, labels):
        ...     ce = F.cross_entropy(student, labels)
        ...     return {'total': 0.5 * ce, 'ce': ce}
        >>> sum_in_chunks(losses, student, labels=torch.arange(4))
        {'total': tensor(1.9560, grad_fn=<_ChunkedBackward>), 'ce': tensor(3.9120)}
    """
    positions = student.shape[:-1]
    count = math.prod(positions)
    others = {name: _in_rows(name, value, positions) for name, value in rows.items()}
    student = student.rows()
    if mask is not None:
        mask = valid('in_chunks', mask, (count,))
        student = student.at(mask)
        others = {name: _some(other, mask) for name, other in others.items()}
    if not student.hidden.shape[0]:
        return {'total': _nothing(student)}
    walk = _Walk(losses, student, others)
    total = _Chunked.apply(student.hidden, student.weight, student.bias, walk)
    return {'total': total, **walk.means}


class _Walk:
    """Goes through the positions of logits, chunk by chunk.

    Args:
        losses: The losses, by name.
        student: The student's logits, ``(N, D)``; of its tensors only the sizes are kept.
        others: What the losses take besides, of N positions.

    Attributes:
        means: The mean of each loss over the positions, since the last walk.
    """

    def __init__(self, losses: Callable[..., Mapping[str, Tensor]], student: LinearLogits, others: Any) -> None:
        self._losses = losses
        self._shaped = student.of_products
        self._given = others
        self.means: dict[str, Tensor] = {}
        elements = _CHUNK.get(student.hidden.device.type, _CHUNK_ELSEWHERE)
        self._step = max(1, elements // max(1, student.weight.shape[0]))

    def __call__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, ...]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The total, and its gradients with respect to those of the three that need one."""
        sources = (hidden, weight, bias)
        given: list[Any] = [None if x is None else _as_autocast(x) for x in sources]
        exact = given
        if given[0].dtype == torch.float16:  # no room for small gradients before the factor of a GradScaler
            exact = [None if x is None else x.float() for x in sources]
        # In half precision, sums over many chunks would lose most of their digits.
        gradients = [
            torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) if x is not None and needed else None
            for x, needed in zip(sources, needs)
        ]
        self.means = {}
        for start in range(0, hidden.shape[0], self._step):
            rows = slice(start, start + self._step)
            part = given[0][rows]
            share = part.shape[0] / hidden.shape[0]
            slope = self._of_chunk(F.linear(part, *given[1:]).to(exact[0].dtype), rows, share, any(needs))
            if slope is not None:
                with full_precision(slope):  # autocast would compute the products in float16 again
                    _add(gradients, slope, share, exact[0][rows], exact[1], rows)
        return self.means.pop('total').to(torch.promote_types(hidden.dtype, torch.float32)), gradients

    def _of_chunk(self, products: Tensor, rows: slice, share: float, needs_grad: bool) -> Tensor | None:
        """Adds the losses of a chunk to the means.

        Returns:
            The gradient of the total with respect to the products of hidden states and weights, ``(n, V)``.
        """
        others = {name: _whole(_some(other, rows)) for name, other in self._given.items()}
        with torch.set_grad_enabled(needs_grad):
            products.requires_grad_(needs_grad)
            values = self._losses(self._shaped(products), **others)
        for name, value in values.items():
            self.means[name] = self.means.get(name, 0.0) + at_least_float32(value.detach()) * share
        if not needs_grad:
            return None
        if not values['total'].requires_grad:
            raise ValueError('in_chunks: the loss does not depend on the student')
        return torch.autograd.grad(values['total'], products)[0]


class _Chunked(torch.autograd.Function):
    """Implements :func:`in_chunks`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, walk: _Walk) -> Tensor:
        needs = tuple(ctx.needs_input_grad[:3])
        value, gradients = walk(hidden, weight, bias, needs)
        if any(needs):
            ctx.save_for_backward(hidden, weight, bias)
            ctx.walk, ctx.needs, ctx.gradients = walk, needs, gradients
        return value

    @staticmethod
    @once_only('A loss in chunks', 'Take the loss of the whole logits, LinearLogits.dense().')
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        # The gradients are scaled in place and returned; a second pass through a retained graph computes them anew.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            gradients = ctx.walk(*ctx.saved_tensors, ctx.needs)[1]
        scaled = (None if x is None else x.mul_(grad_output) for x in gradients)
        return (*(None if x is None else x.to(one.dtype) for x, one in zip(scaled, ctx.saved_tensors)), None)


def _add(
    gradients: list[Tensor | None], slope: Tensor, share: float, part: Tensor, weight: Tensor, rows: slice
) -> None:
    """Adds what a chunk contributes, given the gradient ``(n, V)`` with respect to its products."""
    of_hidden, of_weight, of_bias = gradients
    if of_hidden is not None:
        of_hidden[rows] = (slope @ weight).mul_(share)
    if of_weight is not None:
        if of_weight.dtype == slope.dtype:
            of_weight.addmm_(slope.t(), part, alpha=share)
        else:
            of_weight.add_(slope.t() @ part, alpha=share)
    if of_bias is not None:
        of_bias.add_(slope.sum(0), alpha=share)


def _as_autocast(x: Tensor) -> Tensor:
    """A tensor in the dtype in which autocast computes products."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype in (torch.float32, torch.float16, torch.bfloat16):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def _nothing(student: LinearLogits) -> Tensor:
    """The loss of no positions: 0, with a graph."""
    parts = [at_least_float32(x[:0]).sum() for x in (student.hidden, student.weight, student.bias) if x is not None]
    return sum(parts[1:], parts[0])


def _in_rows(name: str, value: Any, positions: torch.Size) -> Any:
    """A teacher, or what losses take besides, with its positions in one dimension and no graph."""
    is_tensor = isinstance(value, Tensor)
    if not is_tensor and not isinstance(value, (SparseTarget, DeferredLogits)):
        raise ValueError(f'in_chunks: {name}: expected logits, LinearLogits or a sparse target, got {value!r}')
    flat = is_tensor and name != 'teacher' and value.shape[:1] == (math.prod(positions),)
    if value.shape[: len(positions)] != positions and not flat:
        raise ValueError(
            f'in_chunks: {name}: expected one for each position of the student, {tuple(positions)}, got '
            f'{tuple(value.shape)}'
        )
    if not is_tensor:
        return value.rows() if isinstance(value, SparseTarget) else value.rows().detach()
    return value.detach() if flat else value.detach().flatten(0, len(positions) - 1)


def _some(value: Any, positions: Tensor | slice) -> Any:
    """Some of the positions of a teacher, or of another argument."""
    if isinstance(value, DeferredLogits):
        return value.at(positions)
    if isinstance(value, SparseTarget):
        return value.each(lambda tensor, own: tensor[positions])
    return value[positions]


def _whole(value: Any) -> Any:
    return value.dense() if isinstance(value, DeferredLogits) else value


def _check_loss(loss: RowLoss) -> None:
    """Refuses a loss that is no mean over positions, or that learns."""
    if getattr(loss, 'relates_samples', False) or getattr(getattr(loss, 'func', None), 'relates_samples', False):
        raise ValueError(f'in_chunks: {loss!r} compares positions with one another, so it cannot be taken in chunks')
    if isinstance(loss, nn.Module) and any(parameter.requires_grad for parameter in loss.parameters()):
        raise ValueError(f'in_chunks: {loss!r} has weights that are trained, which would get no gradient in chunks')
