"""Splits an annotation of a configuration field into its bare type and its marks."""

from __future__ import annotations

import dataclasses
import enum
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from composer_kd.config.markers import Either, Part

__all__ = ['Annotation', 'Kind']

M = TypeVar('M')


class Kind(enum.Enum):
    """The form in which the value of a key is written, which decides how it is read."""

    EITHER = 'one of several ways to write it'
    KEYED = 'a mapping from the names of components to their options'
    COMPONENT = 'a name with options'
    ITEMS = 'a list of components or sections'
    SECTION = 'a mapping with the keys of a dataclass'
    PLAIN = 'a number, a string, a list of these, or a free mapping'


@dataclass(frozen=True)
class Annotation:
    """The annotation of a configuration field: its bare type and its marks.

    Args:
        bare: The type without marks: ``int | None``.
        marks: The metadata of ``Annotated``, in order.

    Example:
        >>> import typing
        >>> annotation = Annotation.of(typing.Annotated[dict[str, int] | None, Part('loss')])
        >>> annotation.kind, annotation.is_optional, annotation.mark(Part).scope
        (<Kind.COMPONENT: 'a name with options'>, True, 'loss')
    """

    bare: Any
    marks: tuple[Any, ...] = ()

    @classmethod
    def of(cls, hint: Any) -> Annotation:
        """Splits an annotation, with or without ``Annotated``."""
        marks = getattr(hint, '__metadata__', ())
        return cls(typing.get_args(hint)[0], marks) if marks else cls(hint)

    def mark(self, kind: type[M]) -> M | None:
        """Returns the first mark of a class, or None."""
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)

    @property
    def options(self) -> tuple[Any, ...]:
        """The type arguments of the bare type, or the members of its union."""
        return typing.get_args(self.bare)

    @property
    def is_optional(self) -> bool:
        """Whether None is a valid value."""
        return type(None) in self.options

    @property
    def is_mapping(self) -> bool:
        """Whether the bare type is ``dict[...]``."""
        return typing.get_origin(self.bare) is dict

    @property
    def section(self) -> type | None:
        """The dataclass with the keys of the value, or of each entry of a list; None for other values."""
        types = (option for option in (self.bare, *self.options) if isinstance(option, type))
        return next((option for option in types if dataclasses.is_dataclass(option)), None)

    @property
    def kind(self) -> Kind:
        """The form in which the value is written."""
        if self.mark(Either) is not None:
            return Kind.EITHER
        if self.mark(Part) is not None:
            return Kind.KEYED if self.is_mapping else Kind.COMPONENT
        if typing.get_origin(self.bare) is list and (self.section or hasattr(self.options[0], '__metadata__')):
            return Kind.ITEMS
        return Kind.PLAIN if self.section is None else Kind.SECTION
