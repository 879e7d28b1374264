"""Measures the shapes of features before training, on the first samples of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from composer.core import State

from composer_kd.errors import ConfigError
from composer_kd.links import Key, Link
from composer_kd.observation import split_index
from composer_kd.teachers import TeacherPool, feature_shapes

__all__ = ['measure']


def measure(state: State, pool: TeacherPool, links: Sequence[Link]) -> dict[int | None, dict[Key, torch.Size]]:
    """The shapes that links wait for: of the student under ``None``, of each teacher under its number.

    Nothing of the run changes: models are copied without their weights, the dataloader is not started.

    Raises:
        ConfigError: If there are no samples to look at, or the models cannot take them.
    """
    batch = _first_samples(state)
    ours = [key for link in links for key in link.student_keys]
    found: dict[int | None, dict[Key, torch.Size]] = {None: feature_shapes(state.model, batch, ours, 'the student')}
    for index, teacher in enumerate(pool.teachers):
        keys = [key for link in links if link.teacher == index for key in link.teacher_keys]
        if keys:
            found[index] = feature_shapes(teacher, batch, keys, f'the teacher {teacher.name!r}')
    return found


def _first_samples(state: State) -> Any:
    loader = state.train_dataloader
    try:
        batch = loader.collate_fn([loader.dataset[index] for index in range(2)])
    except Exception as error:
        raise ConfigError(
            "For project='auto', and for losses without sizes, shapes are measured on the first samples of the "
            f"train_dataloader's data set, which cannot be had: {type(error).__name__}: {error}. "
            'Give modules, and losses their sizes.'
        ) from error
    return split_index(batch, bool(getattr(state.model, 'takes_index', False)))[0]
