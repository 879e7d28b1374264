"""The stored teachers of a run: checked before anything is built; and which model was stored."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterator

from omegaconf import OmegaConf

from composer_kd.config.construct import construct_or_say
from composer_kd.config.load import as_mapping, load_part
from composer_kd.config.markers import Component
from composer_kd.config.schema import LoaderConfig, RunConfig, TeacherConfig
from composer_kd.config.stored import Stored, stored_teachers
from composer_kd.errors import Attempts, ConfigError, StoreError
from composer_kd.matches.match import Match
from composer_kd.matches.sparse import temperature_of
from composer_kd.presentation.files import write_file
from composer_kd.schedules import Schedule
from composer_kd.stores import Manifest, Store
from composer_kd.stores.mds import fetched, is_remote

__all__ = ['TEACHER_FILE', 'check_stores', 'live_teacher', 'matches_of', 'note_teacher', 'temperature_at']

TEACHER_FILE = 'teacher.yaml'
"""The settings of the teacher that was stored, in the folder of the store."""


def check_stores(config: RunConfig) -> None:
    """Checks the stored teachers of a run by their manifests; data and teachers are not read.

    Args:
        config: The checked configuration.

    Raises:
        StoreError: If a store is missing, unfinished or damaged, has other views than the training data, or a loss on
            logits has another temperature than what was stored.
        ConfigError: If there are several such faults; lists all of them.
    """
    attempt = Attempts()
    for one in stored_teachers(config.algorithms):
        attempt(_check, one, config)
    attempt.finish()


def _check(stored: Stored, config: RunConfig) -> None:
    try:
        store = Store(stored.folder, stored.local)
    except StoreError as error:
        raise StoreError(f'{stored.key}: {error}') from error
    faults = list(_other_views(store.manifest, config.train_loader))
    if store.format is not None and store.format.temperature is not None:
        name = stored.name or str(store.manifest.teacher.get('name'))
        faults += _other_temperatures(stored.algorithm, name, store.format.temperature)
    if faults:
        raise StoreError('\n'.join(f'{stored.key}: {stored.folder}: {fault}' for fault in faults))


def _other_views(manifest: Manifest, loader: LoaderConfig) -> Iterator[str]:
    views, seed = manifest.transform.get('views'), manifest.transform.get('seed')
    if seed is None and loader.views is not None:
        yield (
            f'was built without views, and train_loader.views is {loader.views}; leave it out, or build a store of '
            'this data: composer-kd cache'
        )
    elif seed is not None and (loader.views, loader.views_seed) != (views, seed):
        yield (
            f'holds {views} views of each sample, drawn from the seed {seed}; give train_loader.views={views} and '
            f'train_loader.views_seed={seed}, got {loader.views} and {loader.views_seed}'
        )


def _other_temperatures(algorithm: Component, teacher: str, stored: float) -> Iterator[str]:
    for match in matches_of(algorithm, teacher):
        found = temperature_at(match) if match.on_logits else None
        if callable(found):
            yield (
                f'was stored at the temperature {stored:g}, and that of {match.name!r} changes in training: what was '
                'kept of the classes cannot follow. Give it a number, or store the format dense'
            )
        elif found is not None and not math.isclose(found, stored, rel_tol=1e-6):
            yield (
                f'was stored at the temperature {stored:g}, and {match.name!r} has {found:g}: what was kept of the '
                'classes says nothing of another one. Give it the same, or store the format dense'
            )


def matches_of(algorithm: Component, teacher: str | None) -> list[Match]:
    """Builds the matches of an algorithm, without its teachers.

    Args:
        algorithm: The algorithm.
        teacher: The name of the teacher; those with another one alone are left out. None for all matches.

    Returns:
        The matches; a loss alone is a match on logits.

    Example:
        >>> losses = [Component('loss', 'KLDivergence', {'temperature': 2.0}, 'algorithms.mine.losses.0')]
        >>> [match.on_logits for match in matches_of(Component('algorithm', 'Mine', {'losses': losses}), None)]
        [True]
    """
    built = [construct_or_say(one) for one in algorithm.holding(Component) if one.scope in ('loss', 'match')]
    matches = [one if isinstance(one, Match) else Match(one) for one in built]
    return [match for match in matches if teacher is None or match.teacher in (None, teacher)]


def temperature_at(match: Match) -> float | Schedule | None:
    """The temperature of a match: that which is set, else that of its loss; None if it has none.

    Example:
        >>> from composer_kd import KLDivergence
        >>> temperature_at(Match(KLDivergence(3.0))), temperature_at(Match(KLDivergence(3.0), temperature=2.0))
        (3.0, 2.0)
    """
    return temperature_of(match.loss) if match.temperature is None else match.temperature


def note_teacher(folder: str | os.PathLike[str], teacher: TeacherConfig) -> None:
    """Writes the settings of a stored teacher into the folder of its store, for comparisons with its model.

    Args:
        folder: The folder of the store.
        teacher: The settings.
    """
    content = as_mapping(teacher)
    write_file(pathlib.Path(folder) / TEACHER_FILE, OmegaConf.to_yaml(OmegaConf.create(content)))


def live_teacher(folder: str | os.PathLike[str], local: str | os.PathLike[str] | None = None) -> TeacherConfig | None:
    """Reads which teacher was stored.

    Args:
        folder: The folder of the store, or its address in an object store.
        local: Where what is fetched of it is kept; None for the default.

    Returns:
        The settings of the teacher; None if they were not noted, or the store is elsewhere now.

    Raises:
        ConfigError: If what was noted has faults, or names code from a package that is not trusted.
    """
    place = pathlib.Path(folder)
    if is_remote(folder):
        try:
            place = fetched(os.fspath(folder), local)
        except (StoreError, ConfigError):  # it cannot be reached, or not from here
            return None
    file = place / TEACHER_FILE
    return load_part(file, TeacherConfig, believed=False) if file.is_file() else None
