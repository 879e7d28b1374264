"""What a comparison must know of a microbatch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from composer_kd.batches.masks import Valid

__all__ = ['Microbatch']


@dataclass
class Microbatch:
    """What a comparison must know of a microbatch.

    Attributes:
        batch: The microbatch.
        number: The batch's number.
        valid: The positions whose answers count; ``None``: all.
        tokens: The tokens whose features count; ``None``: all.
        share: What a mean over the valid positions here weighs in the whole batch's; ``None``: nothing to correct.
        token_share: The same for tokens.
        index: Which samples of the data set these are, if that is known.
    """

    batch: Any
    number: int
    valid: Valid | None = None
    tokens: Valid | None = None
    share: Tensor | None = None
    token_share: Tensor | None = None
    index: Tensor | None = None
