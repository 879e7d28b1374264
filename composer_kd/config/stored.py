"""Stored teachers in a YAML: ``- cache: FOLDER`` in the place of a model."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from composer_kd.config.markers import Component, Place
from composer_kd.teachers import CachedTeacher

__all__ = ['Stored', 'StoredTeacherConfig', 'is_stored', 'stored_conflicts', 'stored_teachers']


@dataclass
class StoredTeacherConfig:
    """A stored teacher: the folder that ``composer-kd cache`` wrote, or an address in an object store, and its name."""

    cache: Annotated[str, Place]
    name: str | None = None  # None: that of the teacher that was stored
    local: str | None = None  # where what is fetched of a store in MDS is kept; None: among temporary files


@dataclass(frozen=True)
class Stored:
    """A stored teacher of a run.

    Args:
        key: Its dotted key in the YAML.
        folder: The folder of the store.
        name: Its name; None for that of the teacher that was stored.
        algorithm: The algorithm that it teaches in.
        local: Where what is fetched of it is kept; None for the default.
    """

    key: str
    folder: str
    name: str | None
    algorithm: Component
    local: str | None = None


def is_stored(written: Any) -> bool:
    """Whether the mapping of a teacher is that of a stored one; also with a typing error in ``cache``.

    Example:
        >>> is_stored({'cache': 'runs/kd-cache'}), is_stored({'cahce': 'runs/kd-cache'}), is_stored({'model': 'Net'})
        (True, True, False)
    """
    if not isinstance(written, dict) or 'model' in written:
        return False
    return any(difflib.get_close_matches(str(key), ['cache'], cutoff=0.7) for key in written)


def stored_teachers(algorithms: Mapping[str, Component]) -> list[Stored]:
    """Finds the stored teachers of a run, written as ``cache: FOLDER`` or as ``name: CachedTeacher``.

    Args:
        algorithms: The algorithms of the run.

    Returns:
        The stored teachers in order.

    Example:
        >>> teacher = StoredTeacherConfig('runs/kd-cache')
        >>> mine = Component('algorithm', 'Mine', {'teachers': [teacher]}, 'algorithms.mine')
        >>> (one,) = stored_teachers({'mine': mine})
        >>> one.key, one.folder
        ('algorithms.mine.teachers.0', 'runs/kd-cache')
    """
    found = []
    for algorithm in algorithms.values():
        for option, value in algorithm.options.items():
            for number, one in enumerate(value if isinstance(value, list) else [value]):
                stored = _stored(one)
                if stored is not None:
                    key = f'{algorithm.path}.{option}' + (f'.{number}' if isinstance(value, list) else '')
                    found.append(Stored(key, stored.cache, stored.name, algorithm, stored.local))
    return found


def _stored(written: Any) -> StoredTeacherConfig | None:
    if isinstance(written, Component) and written.scope == 'teacher' and written.target is CachedTeacher:
        options = written.options
        return StoredTeacherConfig(str(options.get('folder')), options.get('name'), options.get('local'))
    return written if isinstance(written, StoredTeacherConfig) else None


def stored_conflicts(algorithms: Mapping[str, Component]) -> Iterator[str]:
    """Yields conflicts of stored teachers with settings, one line each, which starts with the dotted key."""
    for key, algorithm in algorithms.items():
        if algorithm.options.get('run_teacher_on_eval') and stored_teachers({key: algorithm}):
            yield (
                f'{algorithm.path}.run_teacher_on_eval: a stored teacher knows the samples of its '
                'training data, none of an evaluation; leave it out'
            )
