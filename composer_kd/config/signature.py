"""The options that a YAML file may set for a component: its signature without the parameters that the run supplies."""

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
    """The options that a YAML file may set for a component.

    Args:
        label: The component's name in messages.
        allowed: The options, by name.
        nested: Annotations of the options that are written as mappings, such as teachers and losses.
        open_ended: Whether any other option is accepted too.

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
        """Reads the signature of a component's class or function.

        Args:
            component: The component; its options are ignored.

        Returns:
            The signature.

        Raises:
            ConfigError: If the name is unknown.
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
        """Returns stand-ins for the teachers and losses of an algorithm, for its dry run if these have faults.

        Args:
            options: The options written for the algorithm.

        Returns:
            A stand-in, or a list of them, for each nested option among ``options``.
        """
        found: dict[str, Any] = {}
        for key in (key for key in self.nested if key in options):
            several = typing.get_origin(self.nested[key]) is list and isinstance(options[key], list)
            found[key] = [STAND_IN] * len(options[key]) if several else STAND_IN
        return found
