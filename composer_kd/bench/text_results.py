"""What a benchmark finds out about models of texts: tokens per second by length, and the speed of writing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from composer_kd.bench.speed_up import SpeedUp

__all__ = ['GenerationSpeed', 'TextSpeed', 'read_generation', 'read_texts']


@dataclass(frozen=True)
class TextSpeed:
    """The speed of reading whole texts of one length, without padding: every position counts, and is attended.

    Args:
        length: The tokens of a text.
        batch: The batch size.
        tokens_per_second: The tokens of the batch divided by the time of a call, the median over the rounds; ``None``
            after a failure.
        iqr: The interquartile range over the rounds; ``None`` after a failure.
        speed_up: The speed-up over its teacher in the same rounds; ``None`` for a teacher, or if either failed.
        failed: The reason of a failure, or why it was not measured; otherwise ``None``.
    """

    length: int
    batch: int
    tokens_per_second: float | None
    iqr: float | None = None
    speed_up: SpeedUp | None = None
    failed: str | None = None


@dataclass(frozen=True)
class GenerationSpeed:
    """The speed of writing, with a cache of keys and values, after prompts of one length without padding.

    Args:
        prompt: The tokens of a prompt.
        batch: The batch size.
        new_tokens: The tokens that were written after each prompt.
        first_token_seconds: The time until the first new token is there, the median over the rounds; ``None`` after a
            failure.
        first_token_iqr: Its interquartile range over the rounds.
        prompt_tokens_per_second: The tokens of all prompts of the batch divided by that time.
        token_seconds: The time from one new token to the next: the median over the rounds of a round's median.
        token_iqr: Its interquartile range over the rounds.
        tokens_per_second: The new tokens of the whole batch in a second, after the first: batch / ``token_seconds``.
        first_token_speed_up: The speed-up of the first token over the teacher in the same rounds; ``None`` for a
            teacher, or if either failed.
        speed_up: The same of the tokens after the first.
        failed: The reason of a failure, or why it was not measured; otherwise ``None``.
    """

    prompt: int
    batch: int
    new_tokens: int
    first_token_seconds: float | None = None
    first_token_iqr: float | None = None
    prompt_tokens_per_second: float | None = None
    token_seconds: float | None = None
    token_iqr: float | None = None
    tokens_per_second: float | None = None
    first_token_speed_up: SpeedUp | None = None
    speed_up: SpeedUp | None = None
    failed: str | None = None


def read_texts(written: Iterable[dict[str, Any]]) -> list[TextSpeed]:
    """Reads the speeds of reading from the mappings of a JSON file."""
    return [TextSpeed(**{**one, 'speed_up': _ratio(one.get('speed_up'))}) for one in written]


def read_generation(written: Iterable[dict[str, Any]]) -> list[GenerationSpeed]:
    """Reads the speeds of writing from the mappings of a JSON file."""
    ratios = ('first_token_speed_up', 'speed_up')
    return [GenerationSpeed(**{**one, **{key: _ratio(one.get(key)) for key in ratios}}) for one in written]


def _ratio(written: dict[str, Any] | None) -> SpeedUp | None:
    return None if written is None else SpeedUp(**written)
