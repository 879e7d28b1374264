"""A fingerprint of a data set: what it must have in common with the data set that a store was made from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from composer_kd.data.counter_random import sample_seeds
from composer_kd.data.digest import digest, same
from composer_kd.data.held_out import LABELS, targets_of
from composer_kd.data.indexed import by_index
from composer_kd.data.partly_labelled import UNLABELLED
from composer_kd.data.randomness import spread_over
from composer_kd.data.sample_content import content_hash
from composer_kd.data.seeded_items import kept_random_state, seed_everything
from composer_kd.data.view_index import ViewIndex
from composer_kd.data.views import SeededViews

__all__ = ['differences', 'fingerprint']

_TRANSFORMS = ('transform', 'target_transform', 'transforms')  # torchvision's names
_ADDRESS = re.compile(r' at 0x[0-9a-fA-F]+')
_NOT_INPUTS = (*LABELS, 'targets', 'target', 'index')


def fingerprint(dataset: Any, samples: int = 64) -> dict[str, Any]:
    """Describes a data set by plain values, the same in all processes and on all machines.

    Args:
        dataset: A map-style data set with a length. :class:`.Indexed` changes nothing about it.
        samples: How many samples to load, spread over the data set.

    Returns:
        A mapping that JSON holds without loss, for `differences`:

        * ``class``: the class of the innermost data set; ``settings``: its ``extra_repr()``, if it has one;
        * ``length``; ``views`` and ``views_seed`` of :class:`.SeededViews`, otherwise None;
        * ``transforms``: torchvision's attributes ``transform``, ``target_transform`` and ``transforms``, as text;
        * ``labels``: a hash of all classes, and how many are unlabelled; None if the data set has no ``targets``;
        * ``samples``: for some samples, by index, the `digest` of their inputs in view 0, and the class if there is
          one. Random transforms without views are drawn after fixed seeds.

    Example:
        >>> from composer_kd.data import digits
        >>> found = fingerprint(digits(), samples=2)
        >>> found['class'], found['length'], found['settings'][:15], found['samples']['0']['label']
        ('ImageTensors', 1297, 'pad=0, flip=Fal', 0)
    """
    dataset = by_index(dataset)
    chain = list(_chain(dataset))
    views = next((one for one in chain if isinstance(one, SeededViews)), None)
    describe = getattr(chain[-1], 'extra_repr', None)
    targets = targets_of(dataset) if hasattr(dataset, 'targets') else None
    return {
        'class': type(chain[-1]).__qualname__,
        'settings': describe() if callable(describe) else '',
        'length': len(dataset),
        'views': getattr(views, 'views', None),
        'views_seed': getattr(views, 'seed', None),
        'transforms': _transforms(chain),
        'labels': None if targets is None else _labels(targets),
        'samples': _samples(dataset, spread_over(len(dataset), samples)),
    }


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Compares two fingerprints: inputs with the tolerance of `same`, all else exactly.

    Samples that are unlabelled in one of them are no difference: what a teacher says of an input needs no label.

    Args:
        stored: A fingerprint, as it was or read from JSON.
        current: The other one.

    Returns:
        One line for each difference, with both values.

    Example:
        >>> from composer_kd.data import digits
        >>> differences(fingerprint(digits()), fingerprint(digits('test')))[0]
        'length: stored 1297, now 500'
        >>> differences(fingerprint(digits()), fingerprint(digits(n_labels=50)))
        []
    """
    plain = [key for key in stored if key not in ('labels', 'samples')]
    lines = [
        f'{key}: stored {stored[key]!r}, now {current.get(key)!r}' for key in plain if stored[key] != current.get(key)
    ]
    return [*lines, *_other_labels(stored.get('labels'), current.get('labels')), *_other_samples(stored, current)]


def _chain(dataset: Any) -> Iterator[Any]:
    """Yields a data set and those inside of it."""
    yield dataset
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
        yield dataset


def _transforms(chain: list[Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for dataset in chain:
        for name in _TRANSFORMS:
            value = getattr(dataset, name, None)
            if value is not None:
                found.setdefault(name, _ADDRESS.sub('', repr(value)))
    return found


def _labels(targets: list[int]) -> dict[str, Any]:
    values = np.asarray(targets, dtype='<i8')
    return {
        'hash': hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest(),
        'unlabelled': int((values == UNLABELLED).sum()),
    }


def _samples(dataset: Any, indices: list[int]) -> dict[str, Any]:
    described = {}
    with kept_random_state():
        for index, seed in zip(indices, sample_seeds(0, 0, indices).tolist()):
            seed_everything(seed)
            described[str(index)] = _described(dataset[ViewIndex(index, view=0)])
    return described


def _described(item: Any) -> dict[str, Any]:
    if isinstance(item, Mapping):
        inputs: Any = {str(key): _input_digest(value) for key, value in item.items() if key not in _NOT_INPUTS}
        label = next((item[key] for key in LABELS if key in item), None)
    elif isinstance(item, (list, tuple)) and item:
        inputs, label = _input_digest(item[0]), item[1] if len(item) > 1 else None
    else:
        inputs, label = _input_digest(item), None
    return {'inputs': inputs, 'label': _class_of(label)}


def _class_of(label: Any) -> int | None:
    value = label.item() if isinstance(label, (Tensor, np.generic)) and label.ndim == 0 else label
    return value if isinstance(value, int) else None


def _input_digest(value: Any) -> int:
    if isinstance(value, np.ndarray) and value.dtype != object:
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor) and value.numel():
        return int(digest(value.unsqueeze(0)))
    return int(content_hash(value)[:4], 16) - 2**15


def _other_labels(stored: Any, current: Any) -> Iterator[str]:
    complete = stored and current and not stored['unlabelled'] and not current['unlabelled']
    if complete and stored['hash'] != current['hash']:
        yield f'labels: stored {stored["hash"]}, now {current["hash"]} (hashes of all classes)'


def _other_samples(stored: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[str]:
    pairs = [
        (index, one, current['samples'][index])
        for index, one in stored['samples'].items()
        if index in current['samples']
    ]
    inputs = [index for index, one, other in pairs if not _same_inputs(one['inputs'], other['inputs'])]
    if inputs:
        yield f'inputs: {len(inputs)} of {len(pairs)} samples have others, the first at index {inputs[0]}'
    labels = [
        index
        for index, one, other in pairs
        if one['label'] != other['label'] and not {None, UNLABELLED} & {one['label'], other['label']}
    ]
    if labels:
        yield f'labels: {len(labels)} of {len(pairs)} samples have others, the first at index {labels[0]}'


def _same_inputs(stored: Any, current: Any) -> bool:
    if isinstance(stored, Mapping) and isinstance(current, Mapping):
        return stored.keys() == current.keys() and all(_same_inputs(stored[key], current[key]) for key in stored)
    if isinstance(stored, Mapping) or isinstance(current, Mapping):
        return False
    return bool(same(*(torch.tensor(value, dtype=torch.int16) for value in (stored, current))))
