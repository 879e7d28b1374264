"""Text generation: one prompt, continued or answered by every model, token by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from composer_kd.errors import ConfigError
from composer_kd.workflows.serve.answers import Completion, Described
from composer_kd.workflows.serve.models import ServedModel, fastest_device
from composer_kd.workflows.serve.reading import checked_text
from composer_kd.workflows.serve.writer import Wish, Writer

__all__ = ['HOTTEST', 'MOST_TOKENS', 'TextGeneration']

MOST_TOKENS = 512
"""The largest number of tokens that a model may be asked for."""

HOTTEST = 2.0
"""The largest temperature."""


class TextGeneration:
    """Lets language models continue a text (causal ones), or answer it (encoder-decoders), one after the other.

    Args:
        models: The models.

    Attributes:
        models: The models.

    Raises:
        ConfigError: If a model has no tokenizer.
    """

    title = 'text generation'

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = list(models)
        device = fastest_device()
        self._writers = [Writer(model, device) for model in models]

    @staticmethod
    def reads(model: ServedModel) -> bool:
        """Whether a model is one of this task."""
        can_generate: Callable[[], bool] | None = getattr(model.net, 'can_generate', None)
        return can_generate is not None and can_generate()

    def completions(
        self, query: str, context: str = '', temperature: float = 0.0, max_tokens: int = 64, seed: int = 0
    ) -> Iterator[list[Completion]]:
        """Lets the models write, and yields what there is whenever there is more.

        Args:
            query: What they continue or answer.
            context: Stands before it, an empty line between; may be empty.
            temperature: 0 takes the most probable token each time. Above that tokens are drawn from the whole
                distribution, of logits divided by the temperature, in all models after the same seed.
            max_tokens: The largest number of new tokens.
            seed: The seed.

        Yields:
            For each model, in their order, what it has written so far.

        Raises:
            ConfigError: If a text is empty or too long, or a number is out of range.
        """
        wish = _wish(query, context, temperature, max_tokens, seed)
        found = [Completion(Described.of(model)) for model in self.models]
        yield list(found)
        for at, writer in enumerate(self._writers):
            for written in writer.write(wish):
                found[at] = dataclasses.replace(written, of=found[at].of)
                yield list(found)


def _wish(query: Any, context: Any, temperature: Any, max_tokens: Any, seed: Any) -> Wish:
    before, text = checked_text(context, 'context', empty=True), checked_text(query, 'query')
    return Wish(
        f'{before}\n\n{text}' if before else text,
        _number(temperature, 'temperature', 0, HOTTEST),
        _whole(max_tokens, 'max_tokens', 1, MOST_TOKENS),
        _whole(seed, 'seed', 0, 2**32 - 1),
    )


def _number(value: Any, name: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ConfigError(f'{name}: expected a number from {least:g} to {most:,.0f}, got {value!r}')
    return float(value)


def _whole(value: Any, name: str, least: int, most: int) -> int:
    if _number(value, name, least, most) != int(value):
        raise ConfigError(f'{name}: expected a whole number, got {value!r}')
    return int(value)
