"""Where an exported student comes from, by names on the Hugging Face Hub: base models and data sets."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from composer_kd.data.glue import HUB as GLUE
from composer_kd.runs.saved import SavedRun

__all__ = ['Origins', 'evaluated_on', 'origins']

# A name on the hub, as `bert-base-uncased` or `user/name`; paths begin or look otherwise.
_ON_HUB = re.compile(r'[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?')
_DATASETS = {
    'glue': GLUE,
    'cifar10': 'uoft-cs/cifar10',
    'cifar100': 'uoft-cs/cifar100',
    'mnist': 'ylecun/mnist',
    'fashionmnist': 'zalando-datasets/fashion_mnist',
}


@dataclass(frozen=True)
class Origins:
    """Where a student comes from; only what has a name on the hub.

    Args:
        student: The models that the student started from.
        teachers: The models that taught it.
        datasets: The data sets that it was trained on.
    """

    student: list[str]
    teachers: list[str]
    datasets: list[str]

    @property
    def base_models(self) -> list[str]:
        """All models, each once."""
        return list(dict.fromkeys([*self.student, *self.teachers]))


def origins(run: SavedRun) -> Origins:
    """Finds where the student of a run comes from, in the run's settings.

    Args:
        run: The run.
    """
    teachers = [name for teacher in run.config.teachers for name in _pretrained(dict(teacher.model.options))]
    data = _on_hub(run.written.get('train_loader') or {}).get('type')
    return Origins(
        student=list(dict.fromkeys(_pretrained(run.written.get('model') or {}))),
        teachers=list(dict.fromkeys(teachers)),
        datasets=[] if data is None else [data],
    )


def evaluated_on(run: SavedRun) -> dict[str, str]:
    """The data set of a run's metrics as the hub's table of results names it; empty if it isn't known there.

    Args:
        run: The run.
    """
    train, evaluation = (run.written.get(key) or {} for key in ('train_loader', 'eval_loader'))
    held_out = train.get('hold_out') is not None and evaluation.get('hold_out') is None
    return _on_hub(train if held_out else evaluation)


def _on_hub(loader: Mapping[str, Any]) -> dict[str, str]:
    dataset = loader.get('dataset') or {}
    name = _DATASETS.get(str(dataset.get('name', '')).rpartition('.')[2].replace('_', '').lower())
    if name is None:
        return {}
    said = {'config': dataset.get('task'), 'split': dataset.get('split')}
    return {'type': name, **{key: value for key, value in said.items() if isinstance(value, str)}}


def _pretrained(options: Any) -> Iterator[str]:
    """The names on the hub in a model's options, at any depth: a student may be cut out of another model."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            if key == 'pretrained' and isinstance(value, str):
                if _ON_HUB.fullmatch(value) and not value.startswith('runs/') and not pathlib.Path(value).exists():
                    yield value
            else:
                yield from _pretrained(value)
    elif isinstance(options, list):
        for one in options:
            yield from _pretrained(one)
