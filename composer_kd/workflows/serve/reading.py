"""Texts as models read them: checked, tokenized, and cut to what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from composer_kd.errors import ConfigError
from composer_kd.features.longest_text import longest_text
from composer_kd.workflows.serve.models import ServedModel

__all__ = ['MOST_CHARACTERS', 'Reader', 'checked_text']

MOST_CHARACTERS = 10_000
"""The longest text that is tokenized."""

_MADE_UP = 1_000_000  # what transformers calls the length of a tokenizer that has none is far larger


def checked_text(text: Any, name: str, empty: bool = False) -> str:
    """Checks a text that somebody sent.

    Args:
        text: The text.
        name: What it is called, for messages.
        empty: Whether it may be empty.

    Returns:
        The text, without white space around it.

    Raises:
        ConfigError: If it is no text, is empty, or has more than :data:`MOST_CHARACTERS` characters.

    Example:
        >>> checked_text('  ', 'sentence')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: sentence: expected a text, got an empty one
    """
    if not isinstance(text, str):
        raise ConfigError(f'{name}: expected a text, got {type(text).__name__}')
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f'{name}: expected at most {MOST_CHARACTERS:,} characters, got {len(text):,}')
    if not text.strip() and not empty:
        raise ConfigError(f'{name}: expected a text, got an empty one')
    return text.strip()


class Reader:
    """Tokenizes texts for a model, as its run does.

    Args:
        model: The model.

    Attributes:
        tokenizer: The tokenizer of the model, or else that of the run's data.
        max_length: The largest number of tokens: that of the run's data, and what the model takes; None for any.

    Raises:
        ConfigError: If there is no tokenizer.
    """

    def __init__(self, model: ServedModel) -> None:
        own = getattr(model.model, 'tokenizer', None)
        of_data = model.data.first('tokenizer')
        # An adapter translates from what the student reads.
        self.tokenizer: Any = of_data if own is None or (model.adapt is not None and of_data is not None) else own
        if self.tokenizer is None:
            raise ConfigError(f'{model.name}: has no tokenizer; write model.tokenizer: FOLDER in its YAML')
        limits = [self.tokenizer.model_max_length, longest_text(model.net), model.data.first('max_length')]
        self.max_length = min((one for one in limits if one is not None and one < _MADE_UP), default=None)

    def batch(self, texts: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Tokenizes one text or a pair.

        Args:
            texts: The texts.

        Returns:
            A batch of one sample, and a note if it was cut.
        """
        whole = self.tokenizer(*texts, verbose=False)
        tokens = len(whole['input_ids'])
        if self.max_length is None or tokens <= self.max_length:
            coded, notes = self.tokenizer(*texts, return_tensors='pt', verbose=False), []
        else:
            coded = self.tokenizer(*texts, truncation=True, max_length=self.max_length, return_tensors='pt')
            notes = [f'cut to {self.max_length} of {tokens} tokens']
        return dict(coded), notes
