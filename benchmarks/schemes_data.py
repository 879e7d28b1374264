"""CIFAR-10 with 5,000 training images apart, on which settings are chosen."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from composer_kd.data import CIFAR10_MEAN, CIFAR10_STD, ImageTensors, PartlyLabelled, cifar10
from composer_kd.data.partly_labelled import restrict

__all__ = ['HELD_OUT', 'images']

HELD_OUT = 5000


def images(
    split: str = 'rest',
    augment: bool = False,
    n_labels: int | None = None,
    keep_unlabelled: bool = True,
    seed: int = 0,
) -> Dataset[tuple[Tensor, int]]:
    """A part of the training images.

    Args:
        split: ``'held_out'``: 5,000 images, class-balanced and always the same; ``'rest'``: the other 45,000.
        augment: As in :func:`composer_kd.data.cifar10`, and so are the others.
        n_labels: How many samples keep their label.
        keep_unlabelled: Whether the others stay.
        seed: Chooses who keeps a label.
    """
    if split not in ('rest', 'held_out'):
        raise ValueError(f"split: expected 'rest' or 'held_out', got {split!r}")
    whole: Any = cifar10('train')
    apart = PartlyLabelled(whole, subset=HELD_OUT).indices
    chosen = apart if split == 'held_out' else sorted(set(range(len(whole))) - set(apart))
    pad = 4 if augment else 0
    targets = [whole.targets[index] for index in chosen]
    some = ImageTensors(whole.images[chosen], targets, 10, CIFAR10_MEAN, CIFAR10_STD, pad=pad, flip=augment)
    return restrict(some, None, n_labels, keep_unlabelled, seed)
