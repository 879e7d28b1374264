"""Tensors of a checkpoint that a module has no place for, and whether they make it another architecture."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from composer_kd.teachers.entries import Entries, is_within

__all__ = ['Leftovers']


@dataclass(frozen=True)
class Leftovers:
    """What is left of the mappings from which a module's weights are taken.

    Args:
        tensors: The tensors that are left over, by their path.
        prefix: The path below which the module's weights are.
        children: For each part of the module the names of its parts and tensors, by its path.
    """

    tensors: dict[str, Tensor]
    prefix: str
    children: dict[str, set[str]]

    @classmethod
    def beside(
        cls, entries: Entries, prefix: str, used: Iterable[str], scope: str, ignored: Iterable[str] = ()
    ) -> Leftovers:
        """Finds what is left over.

        Args:
            entries: The tensors of the checkpoint.
            prefix: The path below which the module's weights are.
            used: The paths of its weights.
            scope: The path within which to look.
            ignored: Patterns of paths that are not to be mentioned.
        """
        used = set(used)
        places = {entries.places[path] for path in used}
        children: dict[str, set[str]] = defaultdict(set)
        for path in used:
            parts = path.split('.')
            for end in range(len(parts)):
                children['.'.join(parts[:end])].add(parts[end])
        patterns = [re.compile(pattern) for pattern in ignored]
        left = {
            path: tensor
            for path, tensor in entries.tensors.items()
            if path not in used
            and is_within(path, scope)
            and (entries.places[path] in places or not used)
            and not any(pattern.search(path) for pattern in patterns)
        }
        return cls(left, prefix, dict(children))

    @property
    def paths(self) -> list[str]:
        """The paths of all of them."""
        return list(self.tensors)

    def of_another_architecture(self) -> list[str]:
        """Lists those without which the module computes something other than the model that was saved.

        These are further blocks in a numbered row (``layer1.3`` beside ``layer1.2``), parts inside such blocks, and
        tensors of a layer that the module has (a bias). Whole parts of other names (a head, an auxiliary classifier, a
        projector) may be left out; so may whole numbers and single numbers (counters, positions).
        """
        return [path for path, tensor in self.tensors.items() if not _is_bookkeeping(tensor) and self._changes(path)]

    def _changes(self, path: str) -> bool:
        parts = path.split('.')
        depth = next(
            end for end in range(len(parts) + 1) if parts[end] not in self.children.get('.'.join(parts[:end]), ())
        )
        parent, first = '.'.join(parts[:depth]), parts[depth]
        inside = parent == self.prefix or is_within(parent, self.prefix)
        if depth == len(parts) - 1:
            return inside
        below = parts[len(self.prefix.split('.')) if self.prefix else 0 : depth]
        siblings = {_stem(child) for child in self.children.get(parent, ()) if _stem(child) != child}
        return (_stem(first) != first and _stem(first) in siblings) or (inside and any(p.isdigit() for p in below))


def _is_bookkeeping(tensor: Tensor) -> bool:
    return not tensor.is_nested and (tensor.numel() <= 1 or not (tensor.is_floating_point() or tensor.is_complex()))


def _stem(name: str) -> str:
    """A name without the number at its end."""
    return name.rstrip('0123456789')
