"""A candidate, built for one benchmark: what is known of it in every setting."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from composer_kd.bench.candidate import Candidate
from composer_kd.bench.failures import reason
from composer_kd.bench.results import Row, Setting
from composer_kd.bench.saved_forms import SavedForms
from composer_kd.bench.size import count_flops, count_parameters

__all__ = ['BuiltModel']

EXAMPLES = 2
"""Samples that exporters see: of one they would conclude that there is always one."""


class BuiltModel:
    """What one benchmark makes of a candidate, which may be in another one with other data.

    Args:
        candidate: The model's name, role and teachers, and how to build it.
        batches: The evaluation data.
        folder: Where its files go while it is timed.

    Attributes:
        inference: The model on the CPU in fp32: tensors in, logits out.
        forms: The files that backends load it from.
        notes: What a reader must know of it in every setting.

    Raises:
        ConfigError: If the model cannot be called with the batches.
    """

    def __init__(self, candidate: Candidate, batches: Sequence[Any], folder: pathlib.Path) -> None:
        self.candidate = candidate
        self.batches = batches
        self.inference = candidate.inference(batches[0]).cpu().float().eval()
        self.forms = SavedForms(self.inference, self.inputs(EXAMPLES), folder)
        self.notes: list[str] = []
        self.parameters = count_parameters(self.inference)
        self.flops = self._count_flops()

    @property
    def name(self) -> str:
        """The candidate's."""
        return self.candidate.name

    @functools.cached_property
    def shift_labels(self) -> bool:
        """Whether position ``i`` answers for label ``i + 1``."""
        said = self.candidate.shift_labels
        return self.inference.predicts_next_token if said is None else said

    def inputs(self, size: int) -> tuple[Tensor, ...]:
        """A batch of any size, made of the samples of the first one."""
        first = self.inference.inputs_of(self.batches[0])
        chosen = torch.arange(size) % len(first[0])
        return tuple(tensor.index_select(0, chosen) for tensor in first)

    def row(self, setting: Setting) -> Row:
        """A row that says what is known before anything is timed."""
        row = Row(self.name, self.candidate.role, setting, self.parameters, self.flops)
        row.notes += self.notes if self.candidate.trained else [*self.notes, 'random weights: no accuracy']
        return row

    def _count_flops(self) -> float | None:
        try:
            counted = count_flops(self.inference, self.inputs(1))
        except Exception as error:  # a model that cannot answer says so again in its rows
            self.notes.append(f'operations not counted: {reason(error)}')
            return None
        if counted is None:
            self.notes.append('operations not counted: torch.utils.flop_counter knows none of them')
        return counted
