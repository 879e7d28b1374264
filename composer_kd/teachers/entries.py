"""Finds the tensors in what a checkpoint holds, and names them by their path: ``'ema.layer1.weight'``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from composer_kd.errors import CheckpointError, nearest
from composer_kd.students import EXTRAS, without_extras

__all__ = ['COMPOSER', 'Entries', 'is_within', 'listed', 'names_extras', 'shortened']

COMPOSER = 'state.model'
"""The entry of a Composer checkpoint that a Trainer loads into its model."""


@dataclass(frozen=True)
class Entries:
    """The tensors of a checkpoint, however deep its mappings are nested.

    Args:
        tensors: The tensors by their dotted path.
        places: For each of them, the path of the mapping that holds it: ``''`` for the outermost one.
        from_composer: Whether the file has Composer's layout, so that a Trainer can resume from it.

    Example:
        >>> import torch
        >>> entries = Entries.of({'net': {'fc.weight': torch.ones(2)}, 'epoch': 3}, 'w.pt')
        >>> list(entries.tensors), set(entries.places.values())
        (['net.fc.weight'], {'net'})
    """

    tensors: dict[str, Tensor]
    places: dict[str, str]
    from_composer: bool

    @classmethod
    def of(cls, content: Any, name: str, entry: str | None = None) -> Entries:
        """Walks through the content of a checkpoint.

        Optimizers are left out, and so are a student's auxiliary modules unless ``entry`` names one.

        Args:
            content: What a reader returned.
            name: How messages call the file.
            entry: The path that the user gave.

        Raises:
            CheckpointError: If it holds no tensors, or two under one path.
        """
        tensors: dict[str, Tensor] = {}
        places: dict[str, str] = {}
        for place, key, tensor in _walk(content):
            path = _joined(place, key)
            if path in tensors:
                raise CheckpointError(f'{name} holds two tensors whose path is {path!r}: rename one of them.')
            tensors[path], places[path] = tensor, place
        if not names_extras(entry):
            tensors = without_extras(tensors)  # a distilled student may become a teacher
        if not tensors:
            raise _no_weights(content, name)
        state = content.get('state') if isinstance(content, Mapping) else None
        model = state.get('model') if isinstance(state, Mapping) else None
        from_composer = isinstance(model, Mapping) and any(is_within(path, COMPOSER) for path in tensors)
        return cls(tensors, {path: places[path] for path in tensors}, from_composer)

    def scope(self, entry: str | None, name: str) -> str:
        """Returns the path below which the weights are to be looked for.

        Args:
            entry: The path that the user gave.
            name: How messages call the file.

        Raises:
            CheckpointError: If there is nothing at this path.
        """
        if entry is None:
            return COMPOSER if self.from_composer else ''
        if not isinstance(entry, str):
            raise CheckpointError(f"entry must be a dotted path, such as 'ema' or 'state_dict.teacher', got {entry!r}")
        if names_extras(entry):  # where they are depends on the student: see composer_kd.matches.auxiliary_state
            places = (path.partition(entry) for path in self.tensors if f'.{entry}.' in f'.{path}')
            entry = next((f'{before}{middle}' for before, middle, _ in places), entry)
        if not any(is_within(path, entry) for path in self.tensors):
            known = {place for place in self.places.values() if place} | set(_beginnings(self.tensors))
            if names_extras(entry):
                known = {place[place.index(EXTRAS) :] for place in known if names_extras(place)}
            raise CheckpointError(f'{name} has no entry {entry!r}{nearest(entry, known) if len(known) < 500 else ""}')
        return entry

    def state_dict(self, entry: str | None, name: str) -> dict[str, Tensor]:
        """Returns the only state dict, by the names in it.

        Args:
            entry: The path of the state dict, or of a part of it; ``None`` if there is one alone.
            name: How messages call the file.

        Raises:
            CheckpointError: If there are several.
        """
        scope = self.scope(entry, name)
        within = [path for path in self.tensors if is_within(path, scope)]
        floating = [path for path in within if self.tensors[path].is_floating_point() and self.tensors[path].dim()]
        places = list(dict.fromkeys(self.places[path] for path in floating or within))
        if entry is not None and entry in places:
            places = [entry]
        if len(places) > 1:
            raise CheckpointError(f'{name} holds several sets of weights: {listed(places)}. Choose one with entry=...')
        start = max(places[0], scope, key=len)
        return {_below(path, start): self.tensors[path] for path in within if self.places[path] == places[0]}


def names_extras(entry: Any) -> bool:
    """Whether the path that a user gave leads to what was trained beside a student.

    Example:
        >>> names_extras('composer_kd.peer_slow.net'), names_extras('ema')
        (True, False)
    """
    return isinstance(entry, str) and EXTRAS in entry.split('.')


def is_within(path: str, prefix: str) -> bool:
    """Whether a dotted path begins with another.

    Example:
        >>> is_within('net.fc.weight', 'net'), is_within('network.fc', 'net'), is_within('fc', '')
        (True, False, True)
    """
    return not prefix or path.startswith(prefix + '.')


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names for a message: quoted, separated by commas, and cut after the first ones.

    Example:
        >>> listed(['a', 'b', 'c'], most=2)
        "'a', 'b' and 1 more"
    """
    names = list(names)
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(repr(shortened(name)) for name in names[:most]) + more


def shortened(name: str, most: int = 200) -> str:
    """A name of at most 200 characters: a file may contain any."""
    return name if len(name) <= most else f'{name[: most - 3]}...'


def _walk(content: Any) -> Iterator[tuple[str, str, Tensor]]:
    """Yields the place, key and value of each tensor that is held by a mapping; every mapping is visited once."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [('', content)]
    while waiting:
        place, holder = waiting.pop(0)
        if id(holder) in seen or (isinstance(holder, Mapping) and {'state', 'param_groups'} <= holder.keys()):
            continue  # the second is the layout of an optimizer
        seen.add(id(holder))
        for key, value in _items(holder):
            if isinstance(value, Tensor):
                if isinstance(holder, Mapping):
                    yield place, str(key), value
            elif isinstance(value, (Mapping, list, tuple)):
                waiting.append((_joined(place, str(key)), value))


def _items(holder: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(holder, Mapping):
        return holder.items()
    return enumerate(holder) if isinstance(holder, (list, tuple)) else ()


def _joined(place: str, key: str) -> str:
    return f'{place}.{key}' if place else key


def _below(path: str, prefix: str) -> str:
    return path[len(prefix) + 1 :] if prefix else path


def _beginnings(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        parts = path.split('.')
        yield from ('.'.join(parts[:end]) for end in range(1, len(parts)))


def _no_weights(content: Any, name: str) -> CheckpointError:
    found = f'the keys {sorted(map(str, content))[:10]}' if isinstance(content, Mapping) else type(content).__name__
    return CheckpointError(
        f"{name} holds no weights: expected a Composer checkpoint ('state' with 'model'), a mapping from names to "
        f'tensors, or one that holds such mappings, got {found}.'
    )
