"""A candidate built for one benchmark: the properties that hold in every setting."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from composer_kd.batches.format import BatchFormat
from composer_kd.bench.candidate import Candidate
from composer_kd.bench.failures import reason
from composer_kd.bench.results import Row, Setting
from composer_kd.bench.saved_forms import SavedForms
from composer_kd.bench.size import count_flops, count_parameters
from composer_kd.bench.texts import Texts

__all__ = ['BuiltModel']

EXAMPLES = 2
"""Samples in the example inputs of exporters, which would take a batch size of 1 for a constant."""


class BuiltModel:
    """A candidate built for the evaluation data of one benchmark.

    Args:
        candidate: The model's name, role and teachers, and how to build it.
        batches: The evaluation data.
        folder: The folder for the files that backends load.

    Attributes:
        inference: The model on the CPU in fp32; it takes tensors and returns logits.
        forms: The files that backends load it from.
        notes: Remarks that hold in every setting.
        parameters: The number of parameters.
        flops: Floating-point operations for one sample; ``None`` if they cannot be counted.
        texts: Texts of any length for it; ``None`` if it reads none.

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
        self.texts = Texts.of(self.inference, batches[0])

    @property
    def name(self) -> str:
        """The name of the candidate."""
        return self.candidate.name

    @functools.cached_property
    def form(self) -> BatchFormat:
        """The format of its batches, as the model says it; the candidate may say ``shift_labels``."""
        said, form = self.candidate.shift_labels, self.inference.form
        return form if said is None else replace(form, shift_labels=said)

    def inputs(self, size: int) -> tuple[Tensor, ...]:
        """Returns the inputs for a batch of any size, repeated or truncated from the first batch."""
        first = self.inference.inputs_of(self.batches[0])
        chosen = torch.arange(size) % len(first[0])
        return tuple(tensor.index_select(0, chosen) for tensor in first)

    def tokens(self, size: int) -> tuple[float | None, int | None]:
        """The attended tokens of a sample of :meth:`inputs`, the mean, and its positions; ``None`` without texts."""
        return (None, None) if self.texts is None else self.texts.of_data(size)

    def row(self, setting: Setting) -> Row:
        """Returns a row with the values that are known before the measurement."""
        row = Row(self.name, self.candidate.role, setting, self.parameters, self.flops)
        row.notes += self.notes if self.candidate.trained else [*self.notes, 'random weights: no accuracy']
        return row

    def _count_flops(self) -> float | None:
        try:
            counted = count_flops(self.inference, self.inputs(1))
        except Exception as error:  # a model that fails here also fails in its rows
            self.notes.append(f'operations not counted: {reason(error)}')
            return None
        if counted is None:
            self.notes.append('operations not counted: torch.utils.flop_counter knows none of them')
        return counted
