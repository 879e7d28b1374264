"""Builds a store: runs a teacher once over a data set, in all its views, and writes what it says."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import composer
import numpy as np
import torch
from composer.core import Precision, State, get_precision_context
from composer.utils import dist, get_device
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from composer_kd.batches.format import LABELLED, BatchFormat
from composer_kd.batches.layout import layout_of
from composer_kd.batches.masks import source_of, tokens_of
from composer_kd.batches.microbatch import Microbatch
from composer_kd.data import Indexed, SeededViews, ViewIndex
from composer_kd.data.digest import digest
from composer_kd.data.fingerprint import fingerprint
from composer_kd.data.randomness import is_random
from composer_kd.errors import StoreError, TeacherError
from composer_kd.features.hooks import FeatureHooks
from composer_kd.losses._common import pooled
from composer_kd.stores import Dense, Feature, Format, Hidden, Manifest, Store, StoreWriter, default_shard_samples
from composer_kd.teachers.base import Teacher, answered_logits, module_of
from composer_kd.teachers.fingerprint import teacher_fingerprint, weights_hash
from composer_kd.teachers.frozen import FrozenTeacher
from composer_kd.teachers.meanings import check_classes, check_tokens
from composer_kd.teachers.store_sections import inputs_of, labels_section, stored_mask

__all__ = ['POOLED', 'WHOLE', 'build_store']

WHOLE, POOLED = 'whole', 'pooled'
"""How the features of a layer are stored: as they are, or their mean over positions."""


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
    positions: str = LABELLED,
    precision: str | None = None,
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
        dataset: The training data: map-style, with a length. :class:`composer_kd.data.Indexed` around it changes
            nothing.
        format: How logits are stored; ``None`` for :class:`composer_kd.stores.Dense` in float16.
        features: The layers of the teacher whose features are stored, by their paths, as ``'whole'`` or ``'pooled'``
            (a mean over positions); a list of paths for whole ones. Tokens' features are stored pooled alone.
        batch_size: Samples that the teacher is given at once.
        num_workers: Processes that load the data.
        collate_fn: What makes a batch of samples, as in training; ``None`` for torch's.
        head: For :class:`composer_kd.stores.Hidden`: the path of the teacher's last layer, whose input is stored.
        positions: Which positions are compared, as in :class:`.Distillation`.
        precision: The precision in which the teacher runs; ``None`` for Composer's default.
        resume: Whether to go on with a build that was ended.
        progress: Called at the start and after each batch, with the number of samples that are stored, and of those to
            store, of this process.

    Returns:
        The store; in other processes than the first, once that has finished it.

    Raises:
        StoreError: If the data set is random without views, an output cannot be stored, or the folder is in use.
        TeacherError: If the teacher cannot answer, or has other classes than the model.

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
    dataset = dataset.dataset if isinstance(dataset, Indexed) else dataset
    views = _views_of(dataset)
    asked: Teacher = FrozenTeacher(teacher) if not isinstance(teacher, Teacher) else teacher
    form = Dense() if format is None else format
    if isinstance(form, Hidden) != (head is not None):
        raise StoreError(f'head: the path of the last layer is for the format hidden, got {head!r} and {form}')
    reader = _Reader(asked, model, _as_features(features), head, positions, precision)
    load = _Loading(dataset, num_workers, collate_fn)
    outline = reader.outline(load.batch_of([ViewIndex(0, 0)]), form)
    manifest = replace(
        outline, samples=len(dataset), views=views, data=fingerprint(dataset), versions=_versions(),
        transform={'views': views, 'seed': getattr(dataset, 'seed', None)},
    )  # fmt: skip
    manifest = replace(manifest, shard_samples=default_shard_samples(manifest, batch_size))
    return _write(folder, manifest, reader, load, batch_size, resume, progress)


def _write(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    reader: _Reader,
    load: _Loading,
    batch_size: int,
    resume: bool,
    progress: Callable[[int, int], None] | None,
) -> Store:
    rank, ranks = dist.get_global_rank(), dist.get_world_size()
    if rank and ranks > 1:
        dist.barrier()  # the first process prepares the folder
    with StoreWriter(folder, manifest, resume or rank > 0, rank, ranks) as writer:
        if rank == 0 and ranks > 1:
            dist.barrier()
        done, every = writer.kept_rows, writer.kept_rows + len(writer.rows())
        parts = list(writer.batches(batch_size))
        if progress is not None:
            progress(done, every)
        for rows, batch in zip(parts, load.batches(parts, manifest.samples)):
            writer.add(**reader.read(batch, len(rows), manifest))
            done += len(rows)
            if progress is not None:
                progress(done, every)
        if ranks > 1:
            dist.barrier()
        store = writer.finish() if rank == 0 else None
        if ranks > 1:
            dist.barrier()
    return store if store is not None else Store(folder)


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


class _Reader:
    """Runs the teacher on batches, and takes what is stored from its outputs."""

    def __init__(
        self,
        teacher: Teacher,
        model: nn.Module,
        features: Mapping[str, str],
        head: str | None,
        positions: str,
        precision: str | None,
    ) -> None:
        self._teacher, self._model, self._features, self._positions = teacher, model, features, positions
        self._device = get_device(None)
        self._precision = Precision(precision or ('fp32' if self._device.name == 'cpu' else 'amp_fp16'))
        state = State(self._device.module_to_device(model), rank_zero_seed=0, run_name='store', device=self._device)
        check_tokens(model, teacher)
        check_classes(model, teacher)
        teacher.prepare(state)
        self._form = BatchFormat.of(model, positions)
        module = module_of(teacher)
        if (features or head) and module is None:
            raise TeacherError(f'The teacher {teacher.name!r} has no module, so no layers whose features are stored')
        keys: list[Any] = [(path, pooled if how == POOLED else None) for path, how in features.items()]
        self._head = None if head is None else f'{head}:input'
        if self._head is not None:
            keys.append((self._head, None))
        self._hooks = FeatureHooks(module, keys, f'the teacher {teacher.name!r}') if keys and module else None

    def outline(self, batch: Any, form: Format) -> Manifest:
        """The manifest, as far as one batch shows it."""
        logits, _, features, batch = self._run(batch)
        layout = layout_of(logits, batch, self._form)
        per_token = len(layout.shape) > 1
        if layout.dim not in (None, logits.ndim - 1):
            raise TeacherError(
                f'The teacher {self._teacher.name!r} answers with maps {tuple(logits.shape)}, the classes in dimension '
                f'{layout.dim}: stores hold one prediction per sample or token. Take the live teacher.'
            )
        stored = {}
        for path, value in features.items():
            if per_token and self._features[path] == WHOLE:
                raise TeacherError(
                    f'features: the features of {path!r} are stored as they are, {tuple(value.shape)}, where the '
                    f"teacher has one prediction per token. Store their mean over tokens: {{{path!r}: 'pooled'}}."
                )
            stored[path] = Feature(tuple(value.shape[1:]), per='sample')
        return Manifest(
            samples=1,
            views=1,
            classes=layout.classes,
            positions='tokens' if per_token else 'samples',
            shard_samples=1,
            format=form.settings(),
            features=stored,
            teacher={**teacher_fingerprint(self._teacher), 'precision': self._precision.value, **self._head_section()},
            labels=labels_section(self._model, self._positions),
        )

    def _head_section(self) -> dict[str, str | None]:
        module = module_of(self._teacher)
        if self._head is None or module is None:
            return {}
        (name,) = FeatureHooks(module, [(self._head, None)], 'the teacher').module_names().values()
        return {'head': weights_hash(module.get_submodule(name))}

    def read(self, batch: Any, count: int, manifest: Manifest) -> dict[str, Any]:
        """What is written of a batch."""
        logits, hidden, features, batch = self._run(batch)
        rows, lengths = layout_of(logits, batch, self._form).rows(logits), None
        if hidden is not None:
            if hidden.shape[:-1] != rows.shape[:-1]:
                raise StoreError(f"head: its input {tuple(hidden.shape)} is not of the logits' {tuple(rows.shape)}")
            rows = hidden
        if manifest.positions == 'tokens':
            mask = stored_mask(batch, self._form)
            mask = torch.ones(rows.shape[:-1], dtype=torch.bool, device=rows.device) if mask is None else mask
            if mask.shape != rows.shape[:-1]:
                raise StoreError(
                    f'The labels or mask {tuple(mask.shape)} are not of the positions {tuple(rows.shape[:-1])} of the '
                    "teacher's logits, so it cannot be known which to store."
                )
            lengths, rows = mask.flatten(1).sum(1).cpu().numpy(), rows[mask]
        inputs, padding = inputs_of(batch)
        found = digest(inputs, padding)
        if len(found) != count:
            raise StoreError(
                f'A batch of {count} samples has inputs {tuple(inputs.shape)}: its first dimension is no sample'
            )
        return {
            'logits': rows.float(),
            'features': {path: value.float() for path, value in features.items()},
            'digests': found.cpu().numpy().view(np.uint16),
            'lengths': lengths,
        }

    def _tokens(self, batch: Any) -> Microbatch:
        """What counts in means over tokens."""
        tokens, source = tokens_of(batch, self._form), source_of(batch, self._form)
        return Microbatch(batch, 0, tokens=tokens, source=source, form=self._form)

    def _run(self, batch: Any) -> tuple[Tensor, Tensor | None, dict[str, Tensor], Any]:
        batch, _ = self._form.split(self._device.batch_to_device(batch))
        with torch.no_grad(), get_precision_context(self._precision):
            if self._hooks is None:
                outputs, features = self._teacher.outputs(batch), {}
            else:
                with self._hooks.recording(self._tokens(batch).tokens_at):
                    outputs = self._teacher.outputs(batch)
                    features = {path: value for (path, _), value in self._hooks.take().items()}
        logits = answered_logits(self._teacher, outputs)
        if not isinstance(logits, Tensor):
            raise TeacherError(f'The teacher {self._teacher.name!r} is stored already')
        return logits, features.pop(self._head or '', None), features, batch


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


def _versions() -> dict[str, str]:
    return {'composer': composer.__version__, 'torch': torch.__version__, 'python': platform.python_version()}
