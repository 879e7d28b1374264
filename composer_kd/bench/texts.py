"""Texts of any length to time a model with, made of those of the evaluation data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from composer_kd.batches.contents import without_labels
from composer_kd.deploy import Inference
from composer_kd.errors import ConfigError
from composer_kd.features.generation import generates
from composer_kd.features.longest_text import longest_text

__all__ = ['Cell', 'TextOptions', 'TextPlan', 'Texts', 'text_plan']

LENGTHS = (32, 128, 512)
BATCH_SIZES = (1, 8, 32)


@dataclass(frozen=True)
class TextOptions:
    """What is timed of models that read texts, beside what is timed of all.

    Args:
        lengths: The lengths of the texts and of the prompts, in tokens; by default 32, 128 and 512, as far as all
            models take them, and the greatest length that they take if it is less than 512.
        batch_sizes: The batch sizes at each length.
        new_tokens: The tokens that models which write add to each prompt, 2 or more; 0 to time no writing.

    Raises:
        ConfigError: If a number is out of range.
    """

    lengths: Sequence[int] | None = None
    batch_sizes: Sequence[int] = BATCH_SIZES
    new_tokens: int = 32

    def __post_init__(self) -> None:
        for name, sizes in (('lengths', self.lengths), ('batch sizes', self.batch_sizes)):
            if sizes is not None and (not sizes or min(sizes) < 1):
                raise ConfigError(f'{name}: expected whole numbers of 1 or more, got {list(sizes)}')
        if self.new_tokens < 0 or self.new_tokens == 1:
            raise ConfigError(
                f"new tokens: expected 2 or more (the first one is the prompt's), or 0 for none, got {self.new_tokens}"
            )


@dataclass(frozen=True)
class Cell:
    """A length, in tokens, and a batch size."""

    length: int
    batch: int

    @property
    def tokens(self) -> int:
        """The tokens of the batch."""
        return self.length * self.batch

    def __str__(self) -> str:
        return f'{self.length} tokens, batch {self.batch}'


@dataclass(frozen=True)
class TextPlan:
    """The lengths and batch sizes at which texts are timed: those of whole texts, and those of prompts.

    Args:
        texts: The cells of whole texts, those with the fewest tokens first.
        prompts: The cells of prompts, likewise; empty if no model writes.
        new_tokens: The tokens that are added to a prompt.
    """

    texts: tuple[Cell, ...] = ()
    prompts: tuple[Cell, ...] = ()
    new_tokens: int = 0


class Texts:
    """Makes batches of texts of one length, without padding, from the texts of a batch.

    A text is made of the attended tokens of a text of the batch, repeated or cut to the length. Every token counts and
    is attended.

    Args:
        inference: The model.
        batch: A batch of the evaluation data with ``input_ids`` ``(B, S)``.

    Attributes:
        writes: Whether the model can be asked to write.
        most: The most tokens that the model takes; ``None`` if its positions have no end.
    """

    def __init__(self, inference: Inference, batch: Mapping[str, Any]) -> None:
        self._inference, self._batch = inference, without_labels(inference.completed(batch))
        ids = batch['input_ids']
        mask = batch.get('attention_mask')
        attended = mask != 0 if isinstance(mask, Tensor) and mask.shape == ids.shape else torch.ones_like(ids).bool()
        self._attended = attended
        self._places = [row.nonzero()[:, 0] for row in attended if row.any()]
        self._rows = [number for number, row in enumerate(attended) if row.any()]
        net: Any = inference.model
        self.writes = generates(net)
        known = longest_text(net), getattr(getattr(net, 'config', None), 'max_position_embeddings', None)
        self.most: int | None = next((one for one in known if isinstance(one, int) and one > 0), None)

    @classmethod
    def of(cls, inference: Inference, batch: Any) -> Texts | None:
        """The texts for a model; ``None`` if it takes no token numbers under the name ``input_ids``."""
        ids = batch.get('input_ids') if isinstance(batch, Mapping) else None
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point() or 'input_ids' not in inference.keys:
            return None
        texts = cls(inference, batch)
        return texts if texts._rows else None

    def of_data(self, size: int) -> tuple[float, int]:
        """The attended tokens of a text, the mean, and its positions, in a batch of the texts as they come."""
        counts = self._attended.sum(1)
        chosen = counts[torch.arange(size) % len(counts)]
        return chosen.double().mean().item(), self._attended.shape[1]

    def inputs(self, cell: Cell) -> tuple[Tensor, ...]:
        """The inputs of the model for texts of one length, on the CPU; the texts of a decoder keep their length."""
        return self._inference.inputs_of(self._resized(cell))

    def prompts(self, cell: Cell) -> dict[str, Tensor]:
        """What ``generate`` takes: ``input_ids`` and ``attention_mask`` of prompts of one length, on the CPU."""
        adapted = self._inference.adapt(self._resized(cell))
        ids = adapted['input_ids']
        return {'input_ids': ids, 'attention_mask': torch.ones_like(ids)}

    def _resized(self, cell: Cell) -> dict[str, Any]:
        chosen = [number % len(self._rows) for number in range(cell.batch)]
        rows = torch.tensor([self._rows[number] for number in chosen])
        steps = torch.arange(cell.length)
        places = torch.stack([self._places[number][steps % len(self._places[number])] for number in chosen])
        shape = self._batch['input_ids'].shape
        resized: dict[str, Any] = {}
        for key, value in self._batch.items():
            if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != shape[0]:
                resized[key] = value
            elif value.shape[:2] == shape and not key.startswith('decoder_'):
                resized[key] = value[rows[:, None], places]
            else:
                resized[key] = value[rows]
        if 'position_ids' in resized:
            resized['position_ids'] = steps.expand(cell.batch, -1).contiguous()
        return resized


def text_plan(known: Iterable[Texts | None], options: TextOptions) -> TextPlan:
    """Chooses the lengths and batch sizes for a benchmark.

    Args:
        known: The texts for each model; ``None`` for models without.
        options: What the user wants.

    Returns:
        The plan; an empty one if no model reads texts.

    Raises:
        ConfigError: If lengths are asked for, and no model reads texts.

    Example:
        >>> text_plan([None], TextOptions()).texts
        ()
    """
    reading = [one for one in known if one is not None]
    if not reading:
        if options.lengths is not None:
            raise ConfigError('lengths: expected models of texts (batches with input_ids), and none of these is one')
        return TextPlan()
    most = min((one.most for one in reading if one.most is not None), default=LENGTHS[-1])
    texts = options.lengths or [min(length, most) for length in LENGTHS]
    writing = [one for one in reading if one.writes] if options.new_tokens else []
    # A decoder alone has to place the prompt and what follows; half of its room is left to the prompt at least.
    new = options.new_tokens if options.lengths else min(options.new_tokens, max(2, most // 2))
    prompts = options.lengths or [min(length, most - new) for length in LENGTHS if most - new > 0]
    whole = _cells(texts, options.batch_sizes)
    return TextPlan(whole, _cells(prompts, options.batch_sizes), new) if writing else TextPlan(whole)


def _cells(lengths: Sequence[int], batch_sizes: Sequence[int]) -> tuple[Cell, ...]:
    found = {Cell(length, batch) for length in lengths for batch in batch_sizes}
    return tuple(sorted(found, key=lambda cell: (cell.tokens, cell.length)))
