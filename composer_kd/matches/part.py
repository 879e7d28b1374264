"""What a distillation loss is computed of: samples of a microbatch that the same teachers teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from composer_kd.batches.microbatch import Microbatch
from composer_kd.matches.term import Key

__all__ = ['Part']


@dataclass(frozen=True)
class Part:
    """Samples that the same teachers teach, and what the student said of them.

    Attributes:
        micro: The samples, as a microbatch: the whole one, or a part of it.
        logits: The student's logits of them; ``None`` if no match is on logits.
        features: The student's features of them by layer.
        teachers: The numbers of the teachers that run for them.
    """

    micro: Microbatch
    logits: Tensor | None
    features: Mapping[Key, Tensor]
    teachers: Sequence[int]
