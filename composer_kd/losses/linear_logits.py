"""Logits as hidden states and the linear head that makes them, and losses of them in chunks of positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import at_least_float32, check_number, valid
from composer_kd.losses._once import once_only
from composer_kd.losses.sparse import SparseTarget, TeacherLogits

__all__ = ['LinearLogits', 'in_chunks']

_CHUNK = {'cpu': 2**24}  # logits of a chunk: at a vocabulary of 2^17, 128 positions
_CHUNK_ELSEWHERE = 2**26


@dataclass(frozen=True)
class LinearLogits:
    r"""Logits of a linear head that have not been computed: its weights, and the hidden states that it takes.

    .. math:: z = c \tanh\left(\frac{a (W h + b)}{c}\right), \quad\text{without a soft-cap}\quad z = a (W h + b)

    At a vocabulary of 128,256 the logits of a token take 513 kB in float32, and its hidden state of 2,048 numbers 8 kB.

    Attributes:
        hidden: ``(..., D)`` The hidden states.
        weight: ``(V, D)`` The weights of the head, or of the embedding that it is tied to.
        bias: ``(V,)`` Its bias; ``None`` without one.
        scale: ``a``, by which some models multiply their logits.
        softcap: ``c``, the bound of the logits of some models; ``None`` without one.

    Raises:
        ValueError: If the sizes do not fit, or ``scale`` or ``softcap`` is not a positive finite number.

    Example:
        >>> head = torch.nn.Linear(4, 1000, bias=False)
        >>> logits = LinearLogits(torch.randn(2, 3, 4), head.weight)
        >>> logits.shape, logits.dense().shape
        (torch.Size([2, 3, 1000]), torch.Size([2, 3, 1000]))
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        sizes = [tuple(getattr(self, name).shape) for name in ('hidden', 'weight')]
        if self.weight.ndim != 2 or self.hidden.ndim < 1 or self.hidden.shape[-1] != self.weight.shape[1]:
            raise ValueError(f'LinearLogits: expected hidden (..., D) and weight (V, D), got {sizes[0]} and {sizes[1]}')
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ValueError(f'LinearLogits: expected a bias ({sizes[1][0]},), got {tuple(self.bias.shape)}')
        check_number('LinearLogits', 'scale', self.scale)
        if self.softcap is not None:
            check_number('LinearLogits', 'softcap', self.softcap)

    @property
    def shape(self) -> torch.Size:
        """The shape of the logits, ``(..., V)``."""
        return torch.Size((*self.hidden.shape[:-1], self.weight.shape[0]))

    def dense(self) -> Tensor:
        """The logits ``(..., V)``."""
        return self.of_products(F.linear(self.hidden, self.weight, self.bias))

    def of_products(self, products: Tensor) -> Tensor:
        """The logits of the head's own outputs ``(..., V)``: scaled, and bounded by the soft-cap."""
        scaled = products if self.scale == 1.0 else products * self.scale
        return scaled if self.softcap is None else torch.tanh(scaled / self.softcap) * self.softcap

    def rows(self) -> LinearLogits:
        """The same with the positions in one dimension, ``(N, D)``."""
        return replace(self, hidden=self.hidden.reshape(-1, self.hidden.shape[-1]))

    def at(self, positions: Tensor | slice) -> LinearLogits:
        """Some positions of ``(N, D)``: those of a slice, or at which a mask, booleans ``(N,)``, is true."""
        return replace(self, hidden=self.hidden[positions])

    def classes(self, count: int) -> LinearLogits:
        """The same of the first classes alone, as of a vocabulary that is smaller than its padded head."""
        bias = self.bias if self.bias is None else self.bias[:count]
        return replace(self, weight=self.weight[:count], bias=bias)

    def detach(self) -> LinearLogits:
        """The same without a graph."""
        bias = self.bias if self.bias is None else self.bias.detach()
        return replace(self, hidden=self.hidden.detach(), weight=self.weight.detach(), bias=bias)


Teacher: TypeAlias = TeacherLogits | LinearLogits | None
RowLoss: TypeAlias = Callable[..., Tensor]


def in_chunks(
    loss: RowLoss,
    student: LinearLogits,
    teacher: Teacher = None,
    mask: Tensor | None = None,
    **rows: Tensor,
) -> Tensor:
    """Computes a loss of a linear head's logits, and its gradient, without ever holding all logits.

    The logits of a chunk of positions are made, the loss of the chunk and its gradient with respect to them follow, and
    the gradients of hidden states, weights and bias are added up; the backward pass only scales these. The value and
    its gradients are those of ``loss(student.dense(), teacher.dense())`` up to rounding.

    Besides the gradients of the head's weights, which every backward pass holds, it takes the memory of a few chunks:
    of 2 :sup:`24` logits on a CPU, 2 :sup:`26` on other devices. The head's product is computed once, as without
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
    positions = student.shape[:-1]
    count = math.prod(positions)
    others = {'teacher': _in_rows('teacher', teacher, positions), **_entries(rows, positions)}
    student = student.rows()
    if mask is not None:
        mask = valid('in_chunks', mask, (count,))
        student = student.at(mask)
        others = {name: _some(other, mask) for name, other in others.items()}
    if not student.hidden.shape[0]:
        return _nothing(student)
    return _Chunked.apply(student.hidden, student.weight, student.bias, _Walk(loss, student, others))


class _Walk:
    """Goes through the positions of logits, chunk by chunk.

    Args:
        loss: The loss.
        student: The student's logits, ``(N, D)``; of its tensors only the sizes are kept.
        others: What the loss takes besides, of N positions.
    """

    def __init__(self, loss: RowLoss, student: LinearLogits, others: dict[str, Any]) -> None:
        self._loss = loss
        self._shaped = student.of_products
        self._given = {name: other for name, other in others.items() if other is not None}
        elements = _CHUNK.get(student.hidden.device.type, _CHUNK_ELSEWHERE)
        self._step = max(1, elements // max(1, student.weight.shape[0]))

    def __call__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, ...]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The loss, and its gradients with respect to those of the three that need one."""
        sources = (hidden, weight, bias)
        given: list[Any] = [None if x is None else _as_autocast(x) for x in sources]
        exact = given
        if given[0].dtype == torch.float16:  # no room for small gradients before the factor of a GradScaler
            exact = [None if x is None else x.float() for x in sources]
        gradients = [torch.zeros_like(x) if x is not None and needed else None for x, needed in zip(sources, needs)]
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        for start in range(0, hidden.shape[0], self._step):
            rows = slice(start, start + self._step)
            part = given[0][rows]
            share = part.shape[0] / hidden.shape[0]
            value, slope = self._of_chunk(F.linear(part, *given[1:]).to(exact[0].dtype), rows, any(needs))
            total += value * share
            if slope is not None:
                _add(gradients, slope.mul_(share), exact[0][rows], exact[1], rows)
        return total, gradients

    def _of_chunk(self, products: Tensor, rows: slice, needs_grad: bool) -> tuple[Tensor, Tensor | None]:
        """The loss of a chunk, and its gradient with respect to the products of its hidden states and the weights."""
        others = {name: _some(other, rows) for name, other in self._given.items()}
        teacher = [_whole(others.pop('teacher'))] if 'teacher' in others else []
        with torch.set_grad_enabled(needs_grad):
            products.requires_grad_(needs_grad)
            value = self._loss(self._shaped(products), *teacher, **others)
        if not needs_grad:
            return value, None
        if not value.requires_grad:
            raise ValueError('in_chunks: the loss does not depend on the student')
        return value.detach(), torch.autograd.grad(value, products)[0]


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
        return (*(None if x is None else x.mul_(grad_output) for x in gradients), None)


def _add(gradients: list[Tensor | None], slope: Tensor, part: Tensor, weight: Tensor, rows: slice) -> None:
    """Adds what a chunk contributes, given the gradient ``(n, V)`` with respect to its products."""
    of_hidden, of_weight, of_bias = gradients
    if of_hidden is not None:
        of_hidden[rows] = slope @ weight
    if of_weight is not None:
        if of_weight.dtype == slope.dtype:
            of_weight.addmm_(slope.t(), part)
        else:  # a sum over many chunks keeps the digits of the weights' own dtype
            of_weight += slope.t() @ part
    if of_bias is not None:
        of_bias += slope.sum(0)


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
    """A teacher with its positions in one dimension, and no graph."""
    if value is None:
        return None
    if not isinstance(value, (Tensor, SparseTarget, LinearLogits)):
        raise ValueError(f'in_chunks: {name}: expected logits, LinearLogits or a sparse target, got {value!r}')
    if value.shape[:-1] != positions:
        raise ValueError(
            f'in_chunks: {name}: expected the positions of the student, {tuple(positions)}, got '
            f'{tuple(value.shape[:-1])}'
        )
    if isinstance(value, Tensor):
        return value.detach().reshape(-1, value.shape[-1])
    return value.rows().detach() if isinstance(value, LinearLogits) else value.rows()


def _entries(rows: dict[str, Tensor], positions: torch.Size) -> dict[str, Tensor]:
    """What else a loss takes, with the positions in one dimension."""
    count = math.prod(positions)
    for name, value in rows.items():
        if value.shape[: len(positions)] != positions and value.shape[:1] != (count,):
            raise ValueError(
                f'in_chunks: {name}: expected one for each position {tuple(positions)}, got {tuple(value.shape)}'
            )
    return {
        name: value.flatten(0, len(positions) - 1) if value.shape[: len(positions)] == positions else value
        for name, value in rows.items()
    }


def _some(value: Any, positions: Tensor | slice) -> Any:
    """Some of the positions of a teacher, or of another argument."""
    if isinstance(value, LinearLogits):
        return value.at(positions)
    if isinstance(value, SparseTarget):
        return value.each(lambda tensor, own: tensor[positions])
    return value if value is None else value[positions]


def _whole(teacher: Any) -> Any:
    return teacher.dense() if isinstance(teacher, LinearLogits) else teacher


def _check_loss(loss: RowLoss) -> None:
    """Refuses a loss that is no mean over positions, or that learns."""
    if getattr(loss, 'relates_samples', False) or getattr(getattr(loss, 'func', None), 'relates_samples', False):
        raise ValueError(f'in_chunks: {loss!r} compares positions with one another, so it cannot be taken in chunks')
    if isinstance(loss, nn.Module) and any(parameter.requires_grad for parameter in loss.parameters()):
        raise ValueError(f'in_chunks: {loss!r} has weights that are trained, which would get no gradient in chunks')
