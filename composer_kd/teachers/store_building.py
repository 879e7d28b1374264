"""Builds a store: runs a teacher once over a data set, in all its views, and writes what it says."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import composer
import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader
from typing_extensions import Self

from composer_kd.batches.format import LABELLED
from composer_kd.data import Indexed, SeededViews, ViewIndex
from composer_kd.data.collating import collate_of
from composer_kd.data.fingerprint import fingerprint
from composer_kd.data.indexed import by_index
from composer_kd.data.randomness import is_random
from composer_kd.errors import StoreError
from composer_kd.stores import Dense, Format, Hidden, Manifest, Store, StoreWriter, default_shard_samples
from composer_kd.teachers.base import Teacher
from composer_kd.teachers.frozen import FrozenTeacher
from composer_kd.teachers.routing import RouteBy
from composer_kd.teachers.store_reading import POOLED, WHOLE, TeacherReader
from composer_kd.teachers.together import Together

__all__ = ['build_store']


def build_store(
    folder: str | os.PathLike[str],
    teacher: nn.Module | Teacher,
    model: nn.Module,
    dataset: Any,
    format: Format | None = None,
    features: Mapping[str, str] | Sequence[str] = (),
    *,
    batch_size: int = 256,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    head: str | None = None,
    feature_dtype: str = 'float16',
    positions: str = LABELLED,
    vocabulary: int | None = None,
    precision: str | None = None,
    route: RouteBy | None = None,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Runs a teacher once over a data set, and stores what it says of each sample.

    A :class:`.CachedTeacher` of the folder then takes the teacher's place. With random transforms, give the data set as
    :class:`composer_kd.data.SeededViews`: all its views are stored. Any number of processes may build together, and a
    build that was killed goes on with ``resume``; the store is then the same to the byte.

    Args:
        folder: The folder of the store.
        teacher: The teacher: a module, or any :class:`.Teacher` that answers alike at any time. It is frozen, and in
            eval mode from then on.
        model: The student, or a model of its kind, which says how batches are read and where predictions count.
        dataset: The training data: map-style, with a length, or streamed, with
            :class:`composer_kd.data.IndexedSamples`. :class:`composer_kd.data.Indexed` around it changes nothing.
        format: How logits are stored; ``None`` for :class:`composer_kd.stores.Dense` in float16.
        features: The layers of the teacher whose features are stored, by their paths, as ``'whole'`` or ``'pooled'``
            (a mean over positions); a list of paths for whole ones. Of tokens, whole features are those of each token
            that is no padding.
        batch_size: Samples that the teacher is given at once.
        num_workers: Processes that load the data.
        collate_fn: What makes a batch of samples, as in training; ``None`` for the data set's own, or torch's.
        head: For :class:`composer_kd.stores.Hidden`: the path of the teacher's last layer, whose input is stored. If it
            is a :class:`torch.nn.Linear`, it is kept in the store.
        feature_dtype: The floating dtype of stored features: float16, bfloat16 or float32.
        positions: Which positions are compared, as in :class:`.Distillation`.
        vocabulary: The number of classes that are compared, as in :class:`.Distillation`: of logits, no others are
            stored. Hidden states are stored as they are.
        precision: The precision in which the teacher runs; ``None`` for Composer's default.
        route: That of the :class:`.Distillation`, if it is the name of a column, which no teacher gets. What is stored
            is of all samples.
        resume: Whether to go on with a build that was ended.
        progress: Called at the start and after each batch, with the number of samples that are stored, and of those to
            store, of this process.

    Returns:
        The store; in other processes than the first, once that has finished it.

    Raises:
        StoreError: If the data set is random without views, an output cannot be stored, or the folder is in use.
        TeacherError: If the teacher cannot answer, or has other classes than the model.

    If a process fails, it raises its own error, and all others a ``StoreError`` that says it, after their batch.

    Example:
        >>> import tempfile
        >>> from composer.models import ComposerClassifier
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.randn(8, 4), torch.arange(8) % 3)
        >>> student = ComposerClassifier(nn.Linear(4, 3), num_classes=3)
        >>> store = build_store(tempfile.mkdtemp(), nn.Linear(4, 3), student, data)
        >>> store.manifest.samples, store.manifest.classes, store.nbytes
        (8, 3, 64)
    """
    together = Together(folder)
    with together.part():
        dataset = by_index(dataset.dataset if isinstance(dataset, Indexed) else dataset)
        views = _views_of(dataset)
        asked: Teacher = FrozenTeacher(teacher) if not isinstance(teacher, Teacher) else teacher
        _check_classes(asked)
        form = Dense() if format is None else format
        if isinstance(form, Hidden) != (head is not None):
            raise StoreError(f'head: the path of the last layer is for the format hidden, got {head!r} and {form}')
        column = route if isinstance(route, str) else None
        reader = TeacherReader(
            asked, model, _as_features(features), head, positions, precision, feature_dtype, column, vocabulary
        )
        load = _Loading(dataset, num_workers, collate_fn or collate_of(dataset))
        outline = reader.outline(load.batch_of([ViewIndex(0, 0)]), form)
        manifest = replace(
            outline, samples=len(dataset), views=views, data=fingerprint(dataset), versions=_versions(),
            transform={'views': views, 'seed': getattr(dataset, 'seed', None)},
        )  # fmt: skip
        manifest = replace(manifest, shard_samples=default_shard_samples(manifest, batch_size))
    return _write(folder, manifest, reader, load, batch_size, resume, progress, together)


def _write(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    reader: TeacherReader,
    load: _Loading,
    batch_size: int,
    resume: bool,
    progress: Callable[[int, int], None] | None,
    together: Together,
) -> Store:
    rank, ranks = dist.get_global_rank(), dist.get_world_size()
    store = None
    with contextlib.ExitStack() as stack:
        with together.part():  # the first process prepares the folder
            writer = stack.enter_context(StoreWriter(folder, manifest, resume, 0, ranks)) if rank == 0 else None
        with together.part():
            writer = writer or stack.enter_context(StoreWriter(folder, manifest, True, rank, ranks))
            _fill(writer, reader, load, batch_size, progress, together)
        with together.part():
            if rank == 0:
                reader.keep_head(folder)
                store = writer.finish()
    return store if store is not None else Store(folder)


def _fill(
    writer: StoreWriter,
    reader: TeacherReader,
    load: _Loading,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
    together: Together,
) -> None:
    """Writes the rows of this process."""
    done, every = writer.kept_rows, writer.kept_rows + len(writer.rows())
    parts = list(writer.batches(batch_size))
    if progress is not None:
        progress(done, every)
    with _InBackground() as background:
        for rows, batch in zip(parts, load.batches(parts, writer.manifest.samples)):
            if together.is_over:
                return
            said = reader.read(batch, len(rows), writer.manifest)
            background.run(partial(writer.add, **said))
            done += len(rows)
            if progress is not None:
                progress(done, every)


class _InBackground:
    """Runs calls in a thread, one after another: records are made and written while the teacher has its next batch."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._thread:
            if kind is None:
                self._wait()

    def run(self, call: Callable[[], None]) -> None:
        """Runs a call, when that before has ended; its error is raised here, by the next call or at the end."""
        self._wait()
        self._last = self._thread.submit(call)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


class _Loading:
    """Loads samples in a given order."""

    def __init__(self, dataset: Any, workers: int, collate: Callable[[list[Any]], Any] | None) -> None:
        self._dataset, self._workers, self._collate = dataset, workers, collate

    def batch_of(self, indices: Sequence[int]) -> Any:
        """One batch of these samples."""
        return next(iter(self._loader([list(indices)], 0)))

    def batches(self, parts: Sequence[NDArray[np.int64]], samples: int) -> Iterator[Any]:
        """Batches of rows, in this order; row ``view * samples + sample`` is a sample in a view."""
        indices: list[list[Any]] = [
            [ViewIndex(int(row % samples), int(row // samples)) for row in rows] for rows in parts
        ]
        return iter(self._loader(indices, self._workers)) if indices else iter(())

    def _loader(self, batches: list[list[Any]], workers: int) -> DataLoader[Any]:
        return DataLoader(
            self._dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=self._collate,
            pin_memory=torch.cuda.is_available(),
        )


def _as_features(given: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    if isinstance(given, str):
        raise StoreError(f'features: expected paths of layers, or {{path: how}}, got {given!r}')
    features = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, WHOLE)
    for path, how in features.items():
        if how not in (WHOLE, POOLED):
            raise StoreError(f'features: {path}: expected {WHOLE!r} or {POOLED!r}, got {how!r}')
        if not all(part and part.replace('_', 'a').isalnum() for part in path.split('.')):
            raise StoreError(
                f"features: {path!r}: the path of a module is expected, as 'layer2.0'; inputs and entries of tuples "
                'are not stored'
            )
    return features


def _views_of(dataset: Any) -> int:
    """The number of views of a data set.

    Raises:
        StoreError: If it has random transforms that cannot be repeated.
    """
    if isinstance(dataset, SeededViews):
        return dataset.views
    found = is_random(dataset)
    if found:
        raise StoreError(
            f'The data set {type(dataset).__name__} is random ({found}), so a student would see other inputs than the '
            'teacher. Wrap it where the store is built and where it is trained: '
            'composer_kd.data.SeededViews(dataset, views=10); in a YAML, train_loader.views.'
        )
    return 1


def _check_classes(teacher: Teacher) -> None:
    if getattr(teacher, 'own_tokens', False):
        raise StoreError(
            f'The teacher {teacher.name!r} has another tokenizer than the student, and a store has the classes of the '
            'student. Let it teach live: Distillation(teacher, UniversalLogit()).'
        )


def _versions() -> dict[str, str]:
    return {'composer': composer.__version__, 'torch': torch.__version__, 'python': platform.python_version()}
