"""Running a model over batches to measure it: means over the positions that are valid."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ['Batches', 'Mean', 'Positions', 'run']

Batches: TypeAlias = Iterable[Mapping[str, Any]]
"""Batches as transformers takes them, such as a DataLoader of dicts with ``input_ids`` and ``attention_mask``."""

IGNORED = -100  # the label of a position that does not count


class Mean:
    """A running mean over positions, of numbers or vectors."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._count = 0

    def add(self, rows: Tensor) -> None:
        """Adds rows (positions, ...) to it."""
        self._sum = self._sum + rows.double().sum(0).cpu()
        self._count += len(rows)

    def value(self) -> Tensor:
        """The mean, float64 on the CPU; refused without a position, or where it is infinite or undefined."""
        if not self._count:
            raise ConfigError('data: expected at least one batch with a valid position, got none')
        mean = torch.as_tensor(self._sum) / self._count
        if not mean.isfinite().all():
            raise ConfigError(
                'data: the teacher computes infinite or undefined values (NaN) on it; check its precision'
            )
        return mean


class Positions:
    """Which positions of the batch that is being run are valid, by stack."""

    def __init__(self) -> None:
        self._masks: dict[str, Tensor | None] = {}

    def read(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> None:
        """Takes the masks of a batch that is to be run."""
        first = batch.get('attention_mask')
        if not getattr(model.config, 'is_encoder_decoder', False):
            self._masks = {'encoder': first, 'decoder': first}
            return
        second = batch.get('decoder_attention_mask')
        if second is None and batch.get('labels') is not None:
            second = batch['labels'] != IGNORED
        self._masks = {'encoder': first, 'decoder': second}

    def valid(self, values: Tensor, stack: str) -> Tensor:
        """The values (B, S) or (B, S, N) at valid positions, as rows."""
        mask = self._masks[stack]
        if mask is None:
            return values.flatten(0, 1)
        if mask.shape != values.shape[:2]:
            raise ConfigError(
                f'data: expected an attention mask of shape {tuple(values.shape[:2])} (samples, positions) in the '
                f'{stack}, got {tuple(mask.shape)}'
            )
        return values[mask.bool()]


def run(model: PreTrainedModel, data: Batches, current: Positions, handles: list[Any]) -> None:
    """Runs all batches, and removes the hooks."""
    takes = inspect.signature(model.forward).parameters
    try:
        with _evaluating(model), torch.no_grad():
            for batch in data:
                if not isinstance(batch, Mapping):
                    raise ConfigError(
                        f'data: expected batches that are mappings, such as input_ids and attention_mask by name, got '
                        f'{type(batch).__name__}'
                    )
                device = model.device
                moved = {
                    key: value.to(device) if isinstance(value, Tensor) else value
                    for key, value in batch.items()
                    if key in takes
                }
                current.read(model, moved)
                model(**moved)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode in this context; each part is then in its own mode again."""
    modes = {part: part.training for part in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for part, training in modes.items():
            part.training = training
