"""An annotation of the configuration, taken apart: what kind of value it asks for, and its marks."""

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
    """What is written for a key, and with that how it is read."""

    EITHER = 'one of several ways to write it'
    KEYED = 'a mapping from the names of components to their options'
    COMPONENT = 'a name with options'
    ITEMS = 'a list of components or sections'
    SECTION = 'a mapping with the keys of a dataclass'
    PLAIN = 'a number, a string, a list of these, or a free mapping'


@dataclass(frozen=True)
class Annotation:
    """An annotation without its marks, and the marks.

    Args:
        bare: The type: ``int | None``.
        marks: What ``Annotated`` adds to it, in order.

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
        """Takes an annotation apart, one with marks or one without."""
        marks = getattr(hint, '__metadata__', ())
        return cls(typing.get_args(hint)[0], marks) if marks else cls(hint)

    def mark(self, kind: type[M]) -> M | None:
        """The first mark of a class; None where there is none."""
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)

    @property
    def options(self) -> tuple[Any, ...]:
        """The types in the brackets of the bare type, or on the sides of its ``|``."""
        return typing.get_args(self.bare)

    @property
    def is_optional(self) -> bool:
        """Whether None may be written."""
        return type(None) in self.options

    @property
    def is_mapping(self) -> bool:
        """Whether it is a ``dict[...]``."""
        return typing.get_origin(self.bare) is dict

    @property
    def section(self) -> type | None:
        """The dataclass whose keys are written, in one mapping or in each of a list; None where there is none."""
        types = (option for option in (self.bare, *self.options) if isinstance(option, type))
        return next((option for option in types if dataclasses.is_dataclass(option)), None)

    @property
    def kind(self) -> Kind:
        """How a value is read."""
        if self.mark(Either) is not None:
            return Kind.EITHER
        if self.mark(Part) is not None:
            return Kind.KEYED if self.is_mapping else Kind.COMPONENT
        if typing.get_origin(self.bare) is list and (self.section or hasattr(self.options[0], '__metadata__')):
            return Kind.ITEMS
        return Kind.PLAIN if self.section is None else Kind.SECTION
