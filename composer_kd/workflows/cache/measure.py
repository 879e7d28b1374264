"""What a store costs and saves: the error of its format, and the seconds of the live teacher and of reading."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from composer.core import Precision, get_precision_context
from composer.utils import get_device
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from composer_kd.batches.format import BatchFormat
from composer_kd.batches.layout import layout_of
from composer_kd.data import ViewIndex
from composer_kd.data.collating import collate_of
from composer_kd.stores import FormatError, Hidden, Store
from composer_kd.stores.formats import Stored, distance
from composer_kd.teachers import Teacher, answered_logits
from composer_kd.teachers.routing import RouteBy
from composer_kd.teachers.store_head import kept_head
from composer_kd.teachers.store_sections import stored_mask

__all__ = ['Measured', 'measure', 'measure_recoded']

_BATCHES = 8


@dataclass(frozen=True)
class Measured:
    """What was measured on some samples, in batches of the run's size.

    Attributes:
        samples: The number of samples.
        error: The error of the format against the live teacher, or the store that it was made of; None if no position
            of these samples is compared.
        live: Seconds of the live teacher for a sample; None if it did not run.
        stored: Seconds of reading the store for a sample.
    """

    samples: int
    error: FormatError | None
    live: float | None
    stored: float


def measure(
    teacher: Teacher,
    store: Store,
    model: nn.Module,
    dataset: Any,
    batch_size: int,
    *,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    positions: str = 'labelled',
    precision: str | None = None,
    route: RouteBy | None = None,
) -> Measured:
    """Compares a store with the live teacher, on samples that are spread over the data set, in view 0.

    Args:
        teacher: The teacher, as :func:`.build_store` left it: on its device.
        store: The store of it.
        model: The student, which says how batches are read.
        dataset: The data set of the build.
        batch_size: Samples of a batch.
        collate_fn: What makes a batch of samples; None for the data set's own, or torch's.
        positions: Which positions are compared.
        precision: The precision in which the teacher runs; None for Composer's default.
        route: The name of the column that says which teacher each sample has, or a function; None if there is none.
    """
    device, form = get_device(None), BatchFormat.of(model, positions, route if isinstance(route, str) else None)
    chosen = Precision(precision or ('fp32' if device.name == 'cpu' else 'amp_fp16'))
    numbers = _spread(len(dataset), batch_size)
    head = kept_head(store.folder) if isinstance(store.format, Hidden) else None
    parts, live, stored = [], [], []
    for part in np.array_split(numbers, math.ceil(len(numbers) / batch_size)):
        items = [dataset[ViewIndex(int(number), 0)] for number in part]
        written = device.batch_to_device((collate_fn or collate_of(dataset) or default_collate)(items))
        batch, _ = form.split(written)
        with torch.no_grad(), get_precision_context(chosen):
            outputs, seconds = _timed(partial(teacher.outputs, batch))
        live.append(seconds / len(part))
        with torch.no_grad():
            read, seconds = _timed(partial(_read, store, part, head))
        stored.append(seconds / len(part))
        parts.append(distance(read, _compared(answered_logits(teacher, outputs), batch, form, store).float().cpu()))
    return Measured(len(numbers), _error(parts), float(np.median(live)), float(np.median(stored)))


def measure_recoded(source: Store, store: Store, batch_size: int) -> Measured:
    """Compares a store with the dense one that it was made of, on samples that are spread over the data set, in view 0.

    Args:
        source: The dense store.
        store: The store in another format.
        batch_size: Samples of a batch.
    """
    numbers = _spread(store.manifest.samples, batch_size)
    parts, seconds = [], []
    for part in np.array_split(numbers, math.ceil(len(numbers) / batch_size)):
        read, taken = _timed(partial(_read, store, part, None))
        seconds.append(taken / len(part))
        logits = source.logits(0, part)
        assert isinstance(logits, Tensor)
        parts.append(distance(read, logits[..., : store.manifest.classes].float()))
    return Measured(len(numbers), _error(parts), None, float(np.median(seconds)))


def _spread(samples: int, batch_size: int) -> NDArray[np.int64]:
    return np.linspace(0, samples - 1, min(samples, _BATCHES * batch_size)).round().astype(np.int64)


def _error(parts: list[tuple[Tensor, Tensor]]) -> FormatError | None:
    found = FormatError.of(parts)
    return found if found.positions else None


def _compared(logits: Any, batch: Any, form: BatchFormat, store: Store) -> Tensor:
    """The logits at the positions that are stored: ``(positions, classes)``."""
    rows = layout_of(logits, batch, form).rows(logits)
    if not isinstance(store.format, Hidden):
        rows = rows[..., : store.manifest.classes]
    mask = stored_mask(batch, form) if store.manifest.positions == 'tokens' else None
    return rows.flatten(0, -2) if mask is None else rows[mask]


def _read(store: Store, samples: Any, head: nn.Module | None) -> Stored:
    """Reads all that is stored of samples; the logits, or what was kept of them."""
    store.digests(0, samples)
    for path in store.manifest.features:
        store.features(path, 0, samples)
    said = store.logits(0, samples)
    return said if head is None or not isinstance(said, Tensor) else head(said.to(next(head.parameters()).dtype))


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    _wait()
    start = time.perf_counter()
    result = call()
    _wait()
    return result, time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
