"""Writes the stored teachers of a configuration in another format, without the teachers."""

from __future__ import annotations

import pathlib
import shutil
import time

from composer.utils import dist

from composer_kd.config.schema import RunConfig
from composer_kd.config.stored import Stored
from composer_kd.errors import ConfigError
from composer_kd.runs.files import make_folder
from composer_kd.runs.process import say
from composer_kd.runs.stored import TEACHER_FILE, matches_of
from composer_kd.stores import Store, recode
from composer_kd.workflows.cache.measure import measure_recoded
from composer_kd.workflows.cache.report import Built, lines_of
from composer_kd.workflows.cache.settings import CacheSettings, format_for

__all__ = ['recoded']


def recoded(stored: Stored, folder: pathlib.Path, config: RunConfig, settings: CacheSettings) -> Store:
    """Writes a dense store in another format, in one process, and says what it holds.

    Args:
        stored: The stored teacher.
        folder: The folder of the new store.
        config: The configuration of the run.
        settings: How it is stored.

    Returns:
        The new store.

    Raises:
        ConfigError: If features are asked for, or a loss of the run does not take the format.
        StoreError: If there is no dense store, or the folder is in use.
    """
    if settings.features or settings.feature_dtype != CacheSettings.feature_dtype:
        raise ConfigError(
            f'--features: those of {stored.folder} are kept as they are; others are stored by running the teacher'
        )
    source = Store(stored.folder, stored.local)
    if folder.resolve() == source.folder.resolve():
        raise ConfigError(f'--out: {folder} is the store that is read; give the new one a folder of its own')
    name = stored.name or str(source.manifest.teacher.get('name'))
    vocabulary = stored.algorithm.options.get('vocabulary')
    form = format_for(settings, matches_of(stored.algorithm, name), vocabulary or source.manifest.classes, None)
    if dist.get_global_rank() == 0:
        make_folder(folder, '--out')
        start = time.perf_counter()
        store = recode(source, folder, form, settings.resume, vocabulary)
        seconds = time.perf_counter() - start
        if (source.folder / TEACHER_FILE).is_file():
            shutil.copyfile(source.folder / TEACHER_FILE, folder / TEACHER_FILE)
        measured = measure_recoded(source, store, config.device_train_batch_size)
        for line in lines_of(Built(name, stored.key, store, seconds, store.manifest.rows, measured), config):
            say(line)
    if dist.get_world_size() > 1:
        dist.barrier()
    return Store(folder)
