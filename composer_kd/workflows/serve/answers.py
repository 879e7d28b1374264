"""What the models answer to one input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer_kd.workflows.serve.models import ServedModel

__all__ = ['Answer', 'Completion', 'Described']


@dataclass(frozen=True)
class Described:
    """A model, as people read of it.

    Args:
        model: Its name.
        role: ``'teacher'``, ``'student distilled'`` or ``'student alone'``.
        parameters: The number of its parameters.
        size: Bytes of its weights.
    """

    model: str
    role: str
    parameters: int
    size: int

    @classmethod
    def of(cls, served: ServedModel) -> Described:
        """Describes a model."""
        return cls(served.name, served.role, served.parameters, served.size)

    def as_json(self) -> dict[str, Any]:
        """The description as plain values."""
        return {
            'model': self.model,
            'role': self.role,
            'parameters': self.parameters,
            'megabytes': round(self.size / 1e6, 6),
        }


@dataclass(frozen=True)
class Answer:
    """What a classifier says of one input.

    Args:
        of: The model.
        label: Its class, or those that apply where several may, with commas between them.
        confidences: The probability of each class, the largest first.
        seconds: The time of a forward pass, as :func:`.measured` has it.
        notes: What the reader should know, such as that the text was cut.
        error: Why it did not answer.
    """

    of: Described
    label: str = ''
    confidences: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    notes: Sequence[str] = ()
    error: str = ''

    def as_json(self) -> dict[str, Any]:
        """The answer as plain values, with the time in milliseconds."""
        if self.error:
            return {**self.of.as_json(), 'error': self.error}
        assert self.seconds is not None
        return {
            **self.of.as_json(),
            'label': self.label,
            'confidences': dict(self.confidences),
            'milliseconds': round(1000 * self.seconds, 4),
            'notes': list(self.notes),
        }


@dataclass(frozen=True)
class Completion:
    """What a language model has written so far.

    Args:
        of: The model.
        text: The new text.
        tokens: The number of new tokens.
        first: Seconds until the first of them; None before that.
        later: Seconds for each of the following ones, their mean; None before there are any.
        done: Whether it has finished.
        notes: What the reader should know, such as that the prompt was cut.
        error: Why it failed.
    """

    of: Described
    text: str = ''
    tokens: int = 0
    first: float | None = None
    later: float | None = None
    done: bool = False
    notes: Sequence[str] = ()
    error: str = ''

    def as_json(self) -> dict[str, Any]:
        """The completion as plain values, with times in milliseconds."""
        if self.error:
            return {**self.of.as_json(), 'error': self.error}
        return {
            **self.of.as_json(),
            'text': self.text,
            'tokens': self.tokens,
            'done': self.done,
            'milliseconds_to_first_token': None if self.first is None else round(1000 * self.first, 4),
            'milliseconds_per_token': None if self.later is None else round(1000 * self.later, 4),
            'notes': list(self.notes),
        }
