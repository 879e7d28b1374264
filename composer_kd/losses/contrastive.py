"""A contrastive loss with a memory bank of embeddings."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import (
    at_least_float32,
    channels_dim,
    check_number,
    full_precision,
    in_dtype_of_inputs,
    mean,
    pooled,
    ready,
    relates_samples,
    unit,
)
from composer_kd.losses._memory_bank import SEED, others, scores

__all__ = ['CRD']


@relates_samples
class CRD(nn.Module):
    r"""Contrastive representation distillation: contrasts student and teacher embeddings of a sample with negatives.

    Tian, Krishnan and Isola, *Contrastive Representation Distillation* (arXiv 1910.10699), equations 9 to 12 and 18.
    A learned linear layer for each model embeds its features, and the embeddings are divided by their L2 norm. The
    student's embedding :math:`f` is scored against the teacher embeddings in a memory bank: :math:`m_0` of its own
    sample (the positive) and those of :math:`K` other samples (the negatives). The teacher's embedding is scored
    against the student embeddings in the same way. Both are noise-contrastive estimates:

    .. math:: -\log h(m_0) - \sum_{k=1}^{K} \log\left(1 - h(m_k)\right), \qquad
              h = \frac{p}{p + K / n}, \quad p = \frac{e^{m \cdot f / \tau}}{Z}

    The loss is the sum of both estimates, averaged over the batch. It bounds mutual information and is not a
    divergence: at equal inputs, neither its value nor its gradient is 0. Differences from the published forms:

    * The paper's :math:`h` has no :math:`Z`; the authors' code estimates it once as :math:`n` times the mean of
      :math:`e^{m \cdot f / \tau}` over its first batch. Here :math:`Z = n\, e^{1 / (2 d \tau^2)}`, the expectation of
      that estimate for the initial memory, whose elements have variance :math:`1/d` (within 2 % of the mean over random
      embeddings at the defaults). The loss is therefore independent of which microbatch comes first.
    * Negatives are drawn from all other samples with replacement, by a hash of the sample's index and the number of
      updates. They are the same for any microbatch size and number of devices, and after a resume. The authors' code
      draws from samples of other classes, which requires labels.
    * The memory banks change at the end of a batch, in :meth:`update`, instead of in the forward pass.

    **Training.** The data set must return the index of each sample; see :class:`composer_kd.data.Indexed`.
    ``Distillation`` does everything else. In your own training loop, call :meth:`build` if you gave no sizes, put
    ``parameters()`` into the optimizer, and call :meth:`update` after each ``optimizer.step()``. Usual weight: 0.8.

    **Memory.** Two buffers of ``n_samples x dim`` numbers, which are part of the state dict. If ``n_samples`` is at
    most 16 times ``negatives + 1``, the scores come from one product ``(B, n_samples)``; otherwise rows are gathered a
    few at a time, so that ``B x negatives x dim`` numbers are never allocated at once.

    Args:
        n_samples: The number of samples in the data set, :math:`n`.
        student_dim: Channels of the student's features; taken from the shapes in :meth:`build` if ``None``.
        teacher_dim: Channels of the teacher's features; taken from the shapes in :meth:`build` if ``None``.
        dim: The size of the embeddings, :math:`d`.
        negatives: The number of negatives for each sample, :math:`K`; may exceed the number of samples.
        temperature: :math:`\tau > 0`.
        momentum: The share of the old embedding that is kept in the memory at an update, in [0, 1).

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> import torch
        >>> loss = CRD(n_samples=100, student_dim=8, teacher_dim=16, negatives=32)
        >>> student, teacher = torch.zeros(4, 8), torch.zeros(4, 16)
        >>> value = loss(student, teacher, index=torch.tensor([5, 17, 42, 99]))
        >>> value.shape, loss.batches.item()
        (torch.Size([]), 0)
        >>> loss.update()
        >>> loss.batches.item()
        1
    """

    summary = staticmethod(pooled)
    student_memory: Tensor
    teacher_memory: Tensor
    batches: Tensor

    def __init__(
        self,
        n_samples: int,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        self.n_samples = _count('n_samples', n_samples, least=2)
        self.dim = _count('dim', dim)
        self.negatives = _count('negatives', negatives)
        self.temperature = check_number('CRD', 'temperature', temperature)
        self.momentum = check_number('CRD', 'momentum', momentum, strict=False)
        if self.momentum >= 1:
            raise ValueError(f'CRD: momentum must be below 1, or nothing is ever remembered, got {momentum!r}')
        generator = torch.Generator().manual_seed(SEED)
        for side in ('student', 'teacher'):
            memory = torch.rand(self.n_samples, self.dim, generator=generator)
            self.register_buffer(f'{side}_memory', (2.0 * memory - 1.0) * math.sqrt(3.0 / self.dim))
        self.register_buffer('batches', torch.zeros((), dtype=torch.int64))
        self.register_module('student_head', None)
        self.register_module('teacher_head', None)
        for side, width in (('student', student_dim), ('teacher', teacher_dim)):
            if width is not None:
                self._add_head(side, _count(f'{side}_dim', width))
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def build(self, student_shape: torch.Size, teacher_shape: torch.Size) -> None:
        """Creates the linear layers for features of these shapes, or checks the width of existing ones.

        Args:
            student_shape: The shape of the student's features: ``(B, D)``, ``(B, S, D)`` or ``(B, C, H, W)``, also
                after pooling.
            teacher_shape: The shape of the teacher's features.

        Raises:
            ValueError: If an existing layer has a different width.
        """
        for side, shape in (('student', student_shape), ('teacher', teacher_shape)):
            if not all(isinstance(size, int) for size in shape):
                raise ValueError(f'CRD: expected the shape of one feature of the {side}, got {shape!r}')
            width, head = shape[channels_dim(shape)], getattr(self, f'{side}_head')
            if head is None:
                self._add_head(side, width)
            else:
                _check_width(side, head, tuple(shape), width)

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor | None = None) -> Tensor:
        """Computes the loss of one (micro)batch and, in training, keeps the embeddings for :meth:`update`.

        Args:
            student: Features ``(B, D)``; tokens and feature maps are averaged over positions. Any floating dtype.
            teacher: Features of the same samples; ``D`` may differ. No gradient reaches them; their linear layer is
                trained.
            index: The indices of the samples in the data set, int64 ``(B,)``.

        Returns:
            A float32 scalar (float64 for float64 inputs) in nats: the sum over positive and negatives and over both
            estimates, the mean over the batch.

        Raises:
            RuntimeError: If the linear layers have not been built.
            ValueError: If the indices are missing, out of range, or differ in number from the samples; or the features
                do not fit the linear layers.
        """
        student, teacher = ready('CRD', student, teacher, same_shape=False)
        index = self._checked(index, student, teacher)
        with full_precision(student):
            ours, theirs = self._embedded('student', student), self._embedded('teacher', teacher)
            drawn = others(index, self.negatives, self.n_samples, self.batches)
            drawn = torch.cat([index.unsqueeze(1), drawn], dim=1)
            loss = self._contrast(ours, self.teacher_memory, drawn) + self._contrast(theirs, self.student_memory, drawn)
        if self.training and torch.is_grad_enabled():
            self._keep(index, ours.detach(), theirs.detach())
        return loss

    @torch.no_grad()
    def update(self) -> None:
        """Writes the embeddings kept from the last batch into the memory banks.

        Call it once after each batch, on each rank: the embeddings of all ranks are gathered, so that the memory banks
        stay equal. If a sample occurs more than once, the last row on its rank is used (so a repeated microbatch
        replaces the first attempt); between ranks, the row with the largest first element.
        """
        if self._pending:
            index, student, teacher = (torch.cat(parts) for parts in zip(*self._pending))
        else:
            index, student, teacher = self.batches.new_empty(0), *(self.student_memory.new_empty(0, self.dim),) * 2
        rows = torch.cat([student, teacher], dim=1)
        index, rows = _last_of_each(index, rows)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            index, rows = _of_all_ranks(index, rows)
            order = torch.argsort(rows[:, 0], stable=True)
            index, rows = _last_of_each(index[order], rows[order])
        for memory, fresh in zip((self.student_memory, self.teacher_memory), rows.split(self.dim, dim=1)):
            mixed = self.momentum * at_least_float32(memory[index]) + (1.0 - self.momentum) * fresh
            memory.index_copy_(0, index, F.normalize(mixed, dim=1).to(memory.dtype))
        self.batches += 1
        self._pending = []

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Creates missing linear layers with the widths in the state dict."""
        for side in ('student', 'teacher'):
            weight = state_dict.get(f'{prefix}{side}_head.weight')
            if getattr(self, f'{side}_head') is None and weight is not None:
                self._add_head(side, weight.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return (
            f'n_samples={self.n_samples}, dim={self.dim}, negatives={self.negatives}, '
            f'temperature={self.temperature}, momentum={self.momentum}'
        )

    def _add_head(self, side: str, width: int) -> None:
        memory = self.student_memory
        setattr(self, f'{side}_head', nn.Linear(width, self.dim, device=memory.device, dtype=memory.dtype))

    def _checked(self, index: Tensor | None, student: Tensor, teacher: Tensor) -> Tensor:
        """Checks the indices and returns them as int64 on the device of the features."""
        how = 'Wrap the training set: composer_kd.data.Indexed(dataset) yields them with each sample.'
        if index is None:
            raise ValueError(f"CRD: the samples' indices are missing, expected int64 ({student.shape[0]},). {how}")
        if not (tuple(index.shape) == tuple(student.shape[:1]) == tuple(teacher.shape[:1])):
            raise ValueError(
                f'CRD: expected as many samples on both sides and as many indices, got student '
                f'{tuple(student.shape)}, teacher {tuple(teacher.shape)}, index {tuple(index.shape)}'
            )
        if index.is_floating_point() or index.dtype == torch.bool:
            raise ValueError(f'CRD: expected int64 indices, got {index.dtype}. {how}')
        if ((index < 0) | (index >= self.n_samples)).any():
            raise ValueError(
                f'CRD: expected indices from 0 to {self.n_samples - 1} (n_samples={self.n_samples}), got '
                f'{index.min().item()} to {index.max().item()}. Give n_samples=len(dataset).'
            )
        return index.to(student.device, torch.int64)

    def _embedded(self, side: str, features: Tensor) -> Tensor:
        """Computes embeddings ``(B, dim)`` of length 1."""
        head = getattr(self, f'{side}_head')
        if head is None:
            raise RuntimeError(
                f'CRD: the linear layer for the {side} is missing. Give {side}_dim, or call '
                'build(student.shape, teacher.shape) before the optimizer is made.'
            )
        features = pooled(features)
        _check_width(side, head, tuple(features.shape), features.shape[1])
        return unit(in_dtype_of_inputs(head, features))

    def _contrast(self, anchors: Tensor, memory: Tensor, drawn: Tensor) -> Tensor:
        """Computes one estimate: ``log(p / (K / n))`` is ``m.f / T - 1 / (2 d T^2) - log K``, and ``h`` its sigmoid."""
        shift = 0.5 / (self.dim * self.temperature**2) + math.log(self.negatives)
        logits = scores(anchors, memory, drawn) / self.temperature - shift
        return mean(F.softplus(-logits[:, 0]) + F.softplus(logits[:, 1:]).sum(1))

    def _keep(self, *seen: Tensor) -> None:
        self._pending.append(seen)  # type: ignore[arg-type]
        if sum(len(index) for index, *_ in self._pending) > 4 * self.n_samples:
            warnings.warn(
                f'CRD saw more than {4 * self.n_samples} samples since the last update(), of a data set of '
                f'{self.n_samples}: call loss.update() after each optimizer.step(), or nothing is ever remembered.',
                stacklevel=3,
            )
            self._pending = self._pending[-1:]


def _last_of_each(index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts by index and gives repeated indices their last row; the fixed size avoids a synchronisation."""
    order = torch.argsort(index, stable=True)
    index = index[order]
    return index, rows[order[torch.searchsorted(index, index, right=True) - 1]]


def _of_all_ranks(*mine: Tensor) -> list[Tensor]:
    """Concatenates the rows of all ranks for each tensor; the number of rows may differ between ranks."""
    size = mine[0].new_full((1,), len(mine[0]), dtype=torch.int64)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    counts = torch.cat(sizes).tolist()
    if max(counts) == 0:
        return list(mine)
    gathered = []
    for tensor in mine:
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        gathered.append(torch.cat([part[:count] for part, count in zip(parts, counts)]))
    return gathered


def _check_width(side: str, head: nn.Linear, shape: tuple[int, ...], width: int) -> None:
    if head.in_features != width:
        raise ValueError(f'CRD: was built for {head.in_features} channels of the {side}, got {width} in {shape}')


def _count(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'CRD: {name} must be an int of at least {least}, got {value!r}')
    return value
