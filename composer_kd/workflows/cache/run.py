"""Runs the teachers of a configuration once over its training set, and stores what they say."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from composer.models import ComposerModel
from composer.utils import dist, get_device, reproducibility
from torch.utils.data import DataLoader

from composer_kd.batches.format import LABELLED
from composer_kd.config.construct import build_teacher, construct_or_say
from composer_kd.config.markers import Component
from composer_kd.config.schema import RunConfig, TeacherConfig
from composer_kd.config.stored import Stored, stored_teachers
from composer_kd.data import Indexed
from composer_kd.errors import ConfigError, TeacherError
from composer_kd.matches.match import Match
from composer_kd.presentation.addresses import without_credentials
from composer_kd.runs.build import build_model
from composer_kd.runs.files import make_folder
from composer_kd.runs.loaders import ENDLESS, build_loader
from composer_kd.runs.process import keep_freed_memory, say, without_remarks
from composer_kd.runs.stored import matches_of, note_teacher
from composer_kd.stores import Store, check_free, to_mds
from composer_kd.stores.mds import is_remote
from composer_kd.teachers import CachedTeacher, FrozenTeacher, Teacher, build_store, module_of, moves
from composer_kd.teachers.store_head import Head, find_head
from composer_kd.workflows.cache.measure import Measured, measure
from composer_kd.workflows.cache.progress import BuildProgress
from composer_kd.workflows.cache.recoded import recoded
from composer_kd.workflows.cache.report import Built, lines_of
from composer_kd.workflows.cache.settings import CacheSettings, format_for

__all__ = ['cache', 'default_folder']

_LEAST_BATCH = 256
_PATIENCE = 7 * 86400.0  # seconds that a process waits for the others, which may have more left of an earlier attempt


@dataclass(frozen=True)
class _Chosen:
    """A teacher that is stored: its settings, its algorithm, and the folder of its store."""

    written: TeacherConfig | Component | Stored
    algorithm: Component
    key: str
    folder: pathlib.Path


def default_folder(config: RunConfig) -> pathlib.Path:
    """Returns the default folder of the stores of a run: ``<run_name>-cache`` beside the run's folder."""
    parent = config.folder.parent if config.folder is not None else pathlib.Path('runs')
    return parent / f'{config.run_name}-cache'


def cache(
    config: RunConfig,
    settings: CacheSettings | None = None,
    out: str | pathlib.Path | None = None,
    mds: str | None = None,
) -> list[Store]:
    """Runs each teacher of a run once over all views of its training set, and stores what it says.

    Of a run whose teachers are all stored already, their dense stores are written in another format; no teacher runs.

    Args:
        config: The configuration of the run, from ``load_config``.
        settings: How teachers are stored; None for :class:`CacheSettings` with its defaults.
        out: The folder of the store; with several teachers they are below it, each in a folder of its name. None for
            :func:`default_folder`.
        mds: A folder or the address of an object store for a copy in MosaicML Streaming's format; with several teachers
            below it, as in ``out``. None for no copy.

    Returns:
        The stores, in the order of the teachers. In a run of several processes each gets all of them.

    Raises:
        ComposerKDError: If the run has no teacher that could be stored, a setting is wrong or does not fit its losses,
            data or a checkpoint is missing, or the folder holds another store.
    """
    settings = CacheSettings() if settings is None else settings
    folder = default_folder(config) if out is None else pathlib.Path(out)
    if config.folder is not None and folder.resolve() == config.folder.resolve():
        raise ConfigError(f'--out: {folder} is the folder of the run itself; give the store one of its own')
    chosen = _teachers_of(config, folder, settings)
    if mds is not None:
        for one in chosen:
            _check_mds(one, folder, mds)
    if dist.get_world_size() > 1:
        dist.initialize_dist(get_device(None), timeout=_PATIENCE)
    keep_freed_memory()
    with without_remarks():
        stores = list(_stores(chosen, config, settings, folder))
    if mds is not None and dist.get_global_rank() == 0:
        for one in chosen:
            _copy(one, folder, mds)
    return stores


def _stores(chosen: list[_Chosen], config: RunConfig, settings: CacheSettings, folder: pathlib.Path) -> Iterator[Store]:
    stored = [(one.written, one.folder) for one in chosen if isinstance(one.written, Stored)]
    if stored:
        yield from (recoded(written, own, config, settings) for written, own in stored)
        return
    plain = dataclasses.replace(config.train_loader, samples_per_epoch=None, drop_last=False)
    loader = build_loader(plain, 1, config.seed, train=True)
    if getattr(loader.dataset, 'views', None) == ENDLESS:
        raise ConfigError(
            'train_loader.views: each epoch has other masks; write views: 10, for example, to store and train on that '
            'many, which epochs then repeat'
        )
    reproducibility.seed_all(config.seed)
    model = build_model(config.model, getattr(loader.dataset, 'num_classes', None))
    if dist.get_global_rank() == 0:
        make_folder(folder, '--out')
    yield from (_store(one, config, settings, loader, model) for one in chosen)


def _mds_of(one: _Chosen, folder: pathlib.Path, mds: str) -> str:
    own = one.folder.relative_to(folder).as_posix()
    return mds if own == '.' else f'{mds.rstrip("/")}/{own}'


def _check_mds(one: _Chosen, folder: pathlib.Path, mds: str) -> None:
    to = _mds_of(one, folder, mds)
    if not is_remote(to) and pathlib.Path(to).resolve() == one.folder.resolve():
        raise ConfigError(f'--mds: {to} is the folder of the store itself (--out); give the copy one of its own')
    check_free(to)


def _copy(one: _Chosen, folder: pathlib.Path, mds: str) -> None:
    """Copies a store into MosaicML Streaming's format."""
    to = _mds_of(one, folder, mds)
    to_mds(Store(one.folder), to)
    say(f'copied to {without_credentials(to)}, in MDS; in YAML  {one.key}: {{cache: {without_credentials(to)}}}')


def _teachers_of(config: RunConfig, folder: pathlib.Path, settings: CacheSettings) -> list[_Chosen]:
    """The teachers that can be stored, with the folders of their stores; of a run with stored ones alone, these."""
    stored = {one.key: one for one in stored_teachers(config.algorithms)}
    found = [one for one in _written(config) if one[0] not in stored]
    if not found and (settings.format, settings.dtype) != ('dense', None):
        found = [(key, one.algorithm, one) for key, one in stored.items()]
    if not found:
        raise ConfigError(
            'the run has no teacher that could be stored: '
            + (
                'all of them are stored already. A dense store is written in another format with --format or --dtype'
                if stored
                else 'no algorithm of it has a model as a teacher'
            )
        )
    if len(found) == 1:
        return [_Chosen(written, algorithm, key, folder) for key, algorithm, written in found]
    taken: dict[str, int] = {}
    chosen = []
    for key, algorithm, written in found:
        name = _plain(_name_of(written))
        taken[name] = taken.get(name, 0) + 1
        own = name if taken[name] == 1 else f'{name}-{taken[name]}'
        chosen.append(_Chosen(written, algorithm, key, folder / own))
    return chosen


def _name_of(written: TeacherConfig | Component | Stored) -> str:
    if isinstance(written, Stored):
        return written.name or written.folder
    return written.name or written.model.name if isinstance(written, TeacherConfig) else written.name


def _written(config: RunConfig) -> Iterator[tuple[str, Component, TeacherConfig | Component | Stored]]:
    for algorithm in config.algorithms.values():
        for option, value in algorithm.options.items():
            for number, one in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(one, TeacherConfig) or (isinstance(one, Component) and one.scope == 'teacher'):
                    yield f'{algorithm.path}.{option}.{number}', algorithm, one


def _plain(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r'[^\w-]+', '-', name.rpartition('/')[2]).strip('-') or 'teacher'


def _store(
    one: _Chosen, config: RunConfig, settings: CacheSettings, loader: DataLoader[Any], model: ComposerModel
) -> Store:
    teacher = _built(one)
    matches = matches_of(one.algorithm, teacher.name)
    head = _head_of(teacher, settings)
    form = format_for(settings, matches, getattr(model, 'num_classes', None), None if head is None else head.width)
    _say_missing(matches, settings)
    size = settings.batch_size or max(_LEAST_BATCH, 2 * config.device_train_batch_size)
    collate = None if config.train_loader.collate_fn is None else loader.collate_fn
    route = one.algorithm.options.get('route')
    rules: dict[str, Any] = {
        'collate_fn': collate,
        'positions': one.algorithm.options.get('positions', LABELLED),
        'precision': config.precision,
        'route': route if isinstance(route, str) else None,  # a function reads the batch as it is
    }
    vocabulary = one.algorithm.options.get('vocabulary')
    start = time.perf_counter()
    with BuildProgress(teacher.name) as progress:
        store = build_store(
            one.folder,
            teacher,
            model,
            loader.dataset,
            form,
            settings.layers,
            batch_size=size,
            head=None if head is None else head.path,
            feature_dtype=settings.feature_dtype,
            num_workers=config.train_loader.num_workers,
            resume=settings.resume,
            progress=progress,
            vocabulary=vocabulary,
            **rules,
        )
    seconds = time.perf_counter() - start
    written = sum(dist.all_gather_object(progress.written))
    if dist.get_global_rank() == 0:
        if isinstance(one.written, TeacherConfig):
            note_teacher(one.folder, one.written)
        measured = _measured(teacher, store, model, loader, config, rules)
        built = Built(teacher.name, one.key, store, seconds, written, measured)
        for line in lines_of(built, config):
            say(line)
    return store


def _measured(
    teacher: Teacher, store: Store, model: ComposerModel, loader: DataLoader[Any], config: RunConfig, rules: Any
) -> Measured:
    dataset: Any = loader.dataset
    while isinstance(dataset, Indexed):
        dataset = dataset.dataset
    return measure(teacher, store, model, dataset, config.device_train_batch_size, **rules)


def _head_of(teacher: Teacher, settings: CacheSettings) -> Head | None:
    """The last layer of a teacher whose hidden states are to be stored."""
    if settings.format != 'hidden':
        return None
    module = module_of(teacher)
    if module is None:
        raise ConfigError(f'--format hidden: the teacher {teacher.name!r} has no module with a last layer')
    return find_head(module, settings.head)


def _built(one: _Chosen) -> Teacher:
    if isinstance(one.written, TeacherConfig):
        return build_teacher(one.written)
    assert isinstance(one.written, Component)
    teacher: Teacher = construct_or_say(one.written)
    if moves(teacher) and not isinstance(teacher, FrozenTeacher | CachedTeacher):
        raise TeacherError(
            f'{one.key}: {one.written.name} changes during training, so there is nothing of it to store. Store the '
            'teachers that stay as they are, and leave this one as it is'
        )
    return teacher


def _say_missing(matches: list[Match], settings: CacheSettings) -> None:
    """Says which layers the run compares that are not stored."""
    wanted = {layer for match in matches if not match.on_logits for layer in match.teacher_layers}
    missing = sorted(wanted - settings.layers.keys())
    if missing:
        say(f'the matches on {", ".join(missing)} need the live teacher, or --features {" ".join(missing)}')
