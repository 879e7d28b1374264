"""CIFAR-10 at a quarter of its pixels, made small once, with a part of the training images held out for tuning."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Subset

from composer_kd.data import CIFAR10_MEAN, CIFAR10_STD, UNLABELLED, ImageTensors, PartlyLabelled, cifar10

__all__ = ['HELD_OUT', 'SIZE', 'channels_last', 'read', 'read_all', 'small_cifar10']

SIZE = 16
HELD_OUT = 5000


@functools.cache
def read(split: str) -> tuple[Tensor, list[int]]:
    """All images of a split as bytes ``(N, 3, 16, 16)``, and their classes; once for each process."""
    whole: Any = cifar10(split)
    parts = [
        F.interpolate(part.float(), size=(SIZE, SIZE), mode='bilinear', antialias=True)
        for part in whole.images.split(5000)
    ]
    return torch.cat(parts).round().clamp(0, 255).to(torch.uint8), list(whole.targets)


def read_all() -> None:
    """Reads both splits, for a worker to have them before its first run is timed."""
    for split in ('train', 'test'):
        read(split)


def small_cifar10(
    split: str = 'train',
    augment: bool = False,
    n_labels: int | None = None,
    keep_unlabelled: bool = True,
    seed: int = 0,
    labelled_share: float | None = None,
) -> Dataset[tuple[Tensor, int]]:
    """CIFAR-10 of 16x16 pixels.

    Args:
        split: ``'train'`` (45,000 images), ``'held_out'`` (5,000 of the training images, class-balanced and always the
            same) or ``'test'`` (10,000).
        augment: Whether to pad by 2 pixels, crop at random, and mirror half of the images.
        n_labels: How many samples keep their label, class-balanced; None for all.
        keep_unlabelled: Whether the others stay, with the label -100, or are dropped.
        seed: Chooses who keeps a label.
        labelled_share: Of all samples, how many shall have a label: those that do come several times, and as many of
            the others are left out, so that the number of samples stays. None leaves them as they are.

    Returns:
        A data set of ``(x, y)``: a normalised float image ``(3, 16, 16)`` and its class.
    """
    if split not in ('train', 'held_out', 'test'):
        raise ValueError(f"split: expected 'train', 'held_out' or 'test', got {split!r}")
    images, targets = read('test' if split == 'test' else 'train')
    if split != 'test':
        apart = PartlyLabelled(_tensors(images, targets), subset=HELD_OUT).indices
        chosen = apart if split == 'held_out' else sorted(set(range(len(targets))) - set(apart))
        images, targets = images[chosen], [targets[index] for index in chosen]
    dataset = _tensors(images, targets, augment)
    if n_labels is None:
        return dataset
    partly = PartlyLabelled(dataset, n_labels, keep_unlabelled, seed=seed)
    if labelled_share is None or not keep_unlabelled:
        return partly
    return _mixed(partly, labelled_share, seed)


def channels_last(images: Tensor) -> Tensor:
    """The same images in another order in memory: on a CPU the deep CNN answers in two thirds of the time."""
    return images.contiguous(memory_format=torch.channels_last)


def _mixed(partly: PartlyLabelled, share: float, seed: int) -> Dataset[tuple[Tensor, int]]:
    has_label = np.array(partly.targets) != UNLABELLED
    count = round(share * len(partly))
    others = np.random.RandomState(seed).permutation(np.flatnonzero(~has_label))
    chosen = np.concatenate([np.resize(np.flatnonzero(has_label), count), others[: len(partly) - count]]).tolist()
    mixed: Any = Subset(partly, chosen)
    mixed.targets, mixed.num_classes = [partly.targets[index] for index in chosen], partly.num_classes
    return mixed


def _tensors(images: Tensor, targets: list[int], augment: bool = False) -> ImageTensors:
    pad = 2 if augment else 0
    return ImageTensors(images, targets, 10, CIFAR10_MEAN, CIFAR10_STD, pad=pad, flip=augment)
