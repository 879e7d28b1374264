"""Scikit-learn's handwritten digits: real data that is installed with the package."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from composer_kd.data.image_tensors import ImageTensors
from composer_kd.data.location import check_split
from composer_kd.data.partly_labelled import balanced_order, restrict
from composer_kd.data.statistics import DIGITS_MEAN, DIGITS_STD

__all__ = ['digits']

TEST_SAMPLES = 500
FULL_BRIGHTNESS = 16.0


def digits(
    split: str = 'train',
    n_labels: int | None = None,
    keep_unlabelled: bool = True,
    seed: int = 0,
    augment: bool = False,
    subset: int | None = None,
    size: int | None = None,
) -> Dataset[tuple[Tensor, int]]:
    """Loads the 1,797 handwritten digits of scikit-learn: 8x8 grey pixels, ten classes.

    The split is fixed: 1,297 training samples and 500 test samples, 50 of each class.

    Args:
        split: ``'train'`` or ``'test'``.
        n_labels: The number of samples that keep their label, class-balanced; None for all.
        keep_unlabelled: Whether the other samples stay, with the label -100, or are dropped.
        seed: Seed of the choice of labelled samples.
        augment: Whether to shift each image at random by up to one pixel in both directions.
        subset: The number of samples to select first, by a fixed class-balanced choice; None for all.
        size: Height and width in pixels to resize to; None keeps 8.

    Returns:
        A data set of ``(x, y)``, a float32 image ``(1, 8, 8)``, or ``(1, size, size)``, and its class. The training
        images have zero mean and unit variance.

    Raises:
        ConfigError: If ``split`` is unknown, or a count is out of range.

    Example:
        >>> train, test = digits(), digits('test')
        >>> len(train), len(test), train.num_classes, tuple(train[0][0].shape)
        (1297, 500, 10, (1, 8, 8))
    """
    check_split(split, ('train', 'test'))
    images, targets = _bundled()
    order = balanced_order(targets, seed=0)
    chosen = sorted(order[:TEST_SAMPLES] if split == 'test' else order[TEST_SAMPLES:])
    dataset = ImageTensors(
        images=images[chosen],
        targets=[targets[i] for i in chosen],
        num_classes=10,
        mean=DIGITS_MEAN,
        std=DIGITS_STD,
        scale=FULL_BRIGHTNESS,
        pad=1 if augment else 0,
        size=size,
    )
    return restrict(dataset, subset, n_labels, keep_unlabelled, seed)


@functools.cache
def _bundled() -> tuple[Tensor, list[int]]:
    """The images ``(1797, 1, 8, 8)`` as bytes, and their classes: the text is read once."""
    from sklearn.datasets import load_digits

    bundled: Any = load_digits()
    return torch.from_numpy(bundled.images).to(torch.uint8).unsqueeze(1), bundled.target.tolist()
