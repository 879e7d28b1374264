"""The dry run: measures the shapes of features on the first samples of the data, and tries every match on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from composer.core import State
from torch import Tensor

from composer_kd.batches.format import BatchFormat
from composer_kd.batches.masks import source_of, tokens_of
from composer_kd.batches.microbatch import Microbatch
from composer_kd.data.view_index import first_items
from composer_kd.matches.term import Key, LossTerm
from composer_kd.teachers import NotMeasured, TeacherPool, feature_shapes

__all__ = ['Samples', 'measure', 'dry_run', 'first_samples']


@dataclass(frozen=True)
class Samples:
    """The first samples of the training data, and the shapes of the models' features on them.

    Attributes:
        batch: Up to four samples as a batch, as models take it.
        index: ``(B,)`` The samples' numbers in the data set; ``None`` if the batch has none.
        shapes: The shapes of features, the batch first: the student's under ``None``, each teacher's under its number.
    """

    batch: Any
    index: Tensor | None
    shapes: dict[int | None, dict[Key, torch.Size]]


def measure(state: State, pool: TeacherPool, terms: Sequence[LossTerm]) -> Samples:
    """Measures the shapes of all features that the loss terms compare.

    The run stays unchanged: copies of the models run on torch's meta device where possible, else the models themselves,
    the student in train mode and the teachers in eval mode; the dataloader is not started.

    Args:
        state: The state of the run.
        pool: The teachers.
        terms: The loss terms.

    Raises:
        NotMeasured: If the data set gives no samples, or a model cannot take them.
        ConfigError: If a layer path names nothing that could be compared.
    """
    batch, index = BatchFormat.of(state.model).split(first_samples(state))
    ours = [key for term in terms for key in term.student_keys]
    shapes: dict[int | None, dict[Key, torch.Size]] = {None: feature_shapes(state.model, batch, ours, 'the student')}
    for number, teacher in enumerate(pool.teachers):
        keys = [key for term in terms if term.teacher == number for key in term.teacher_keys]
        if keys:
            shapes[number] = feature_shapes(teacher, batch, keys, f'the teacher {teacher.name!r}', index)
    return Samples(batch, index, shapes)


def dry_run(state: State, terms: Sequence[LossTerm], samples: Samples) -> None:
    """Computes every loss term on random features of the measured shapes, so that errors show before training starts.

    Args:
        state: The state of the run.
        terms: The loss terms; those on logits are skipped.
        samples: The first samples, measured.

    Raises:
        LossError: If a loss cannot compare the features, or needs labels or an index that the data does not have.
    """
    to_device = state.device.tensor_to_device
    index = None if samples.index is None else to_device(samples.index)
    batch = state.device.batch_to_device(samples.batch)
    form = BatchFormat.of(state.model)
    micro = Microbatch(batch, state.timestamp.batch.value, index=index, form=form)
    micro.tokens, micro.source = tokens_of(batch, form), source_of(batch, form)
    with torch.random.fork_rng(devices=[]):
        for term in terms:
            if term.student_keys:
                ours = {k: to_device(torch.randn(samples.shapes[None][k])).requires_grad_() for k in term.student_keys}
                theirs = {k: to_device(torch.randn(samples.shapes[term.teacher][k])) for k in term.teacher_keys}
                term.detached_copy().of_features(state, ours, theirs, micro)


def first_samples(state: State) -> Any:
    """Up to four samples of the training data as a batch.

    Raises:
        NotMeasured: If the data set gives none.
    """
    loader = state.train_dataloader
    try:
        return loader.collate_fn(first_items(loader.dataset, 4))
    except Exception as error:
        raise NotMeasured(
            "For project='auto', and for losses without sizes, shapes are measured on the first samples of the "
            f"train_dataloader's data set, which cannot be had: {type(error).__name__}: {error}. "
            'Give modules, and losses their sizes.'
        ) from error
