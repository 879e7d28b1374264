"""What a YAML may say about a component: its signature, without what the run fills in."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any

from composer_kd.config.dry_construct import STAND_IN, supplied_names
from composer_kd.config.hints import nested_hints
from composer_kd.config.markers import Component
from composer_kd.config.typecheck import Parameter, parameters

__all__ = ['Signature']


@dataclass(frozen=True)
class Signature:
    """What may be written for a component.

    Args:
        label: What the component is called in messages.
        allowed: The options that a YAML may give.
        nested: The annotations of those of them that are described by mappings of their own.
        open_ended: Whether any other option is taken too.

    Example:
        >>> Signature.of(Component('loss', 'torch.nn.KLDivLoss')).label
        'KLDivLoss'
    """

    label: str
    allowed: dict[str, Parameter]
    nested: dict[str, Any]
    open_ended: bool

    @classmethod
    def of(cls, component: Component) -> Signature:
        """Reads it off what a component's name means.

        Args:
            component: Of its options nothing is looked at.

        Returns:
            What it takes.

        Raises:
            ConfigError: If nothing has that name.
        """
        target = component.target
        known, open_ended = parameters(target)
        supplied = supplied_names(component.scope, target)
        nested = nested_hints(component.scope, target, known)
        allowed = {
            key: Parameter(nested.get(key, parameter.annotation), parameter.required)
            for key, parameter in known.items()
            if key not in supplied
        }
        return cls(getattr(target, '__name__', component.name), allowed, nested, open_ended)

    def stand_ins(self, options: dict[str, Any]) -> dict[str, Any]:
        """Gives what an algorithm can be tried with in place of teachers and losses that have faults.

        Args:
            options: What was written for it.

        Returns:
            A stand-in for each nested option among them.
        """
        found: dict[str, Any] = {}
        for key in (key for key in self.nested if key in options):
            several = typing.get_origin(self.nested[key]) is list and isinstance(options[key], list)
            found[key] = [STAND_IN] * len(options[key]) if several else STAND_IN
        return found
