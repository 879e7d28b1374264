"""Scikit-learn's handwritten digits: real data that needs no download."""

from __future__ import annotations

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
    """1,797 handwritten digits of 8x8 grey pixels, in ten classes, bundled with scikit-learn.

    1,297 samples train and 500 test, 50 of each class; who is where never changes.

    Args:
        split: ``'train'`` or ``'test'``.
        n_labels: How many samples keep their label, class-balanced; None for all.
        keep_unlabelled: Whether the others stay, with the label -100, or are dropped.
        seed: Chooses who keeps a label.
        augment: Whether to shift each image at random by up to one pixel in both directions.
        subset: How many samples to begin with, by a fixed class-balanced choice; None for all.
        size: Height and width in pixels to resize to; None keeps 8.

    Returns:
        A data set of ``(x, y)``: a float image ``(1, 8, 8)`` of zero mean and unit variance, and its class.

    Raises:
        ConfigError: If ``split`` is unknown, or a count is out of range.

    Example:
        >>> train, test = digits(), digits('test')
        >>> len(train), len(test), train.num_classes, tuple(train[0][0].shape)
        (1297, 500, 10, (1, 8, 8))
    """
    check_split(split, ('train', 'test'))
    from sklearn.datasets import load_digits

    bundled: Any = load_digits()
    order = balanced_order(bundled.target.tolist(), seed=0)
    chosen = sorted(order[:TEST_SAMPLES] if split == 'test' else order[TEST_SAMPLES:])
    dataset = ImageTensors(
        images=torch.from_numpy(bundled.images[chosen]).to(torch.uint8).unsqueeze(1),
        targets=bundled.target[chosen].tolist(),
        num_classes=10,
        mean=DIGITS_MEAN,
        std=DIGITS_STD,
        scale=FULL_BRIGHTNESS,
        pad=1 if augment else 0,
        size=size,
    )
    return restrict(dataset, subset, n_labels, keep_unlabelled, seed)
