"""CIFAR-10, CIFAR-100 and Fashion-MNIST, kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets

from composer_kd.data.image_tensors import ImageTensors
from composer_kd.data.location import check_split, open_torchvision
from composer_kd.data.partly_labelled import restrict
from composer_kd.data.statistics import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    CIFAR100_MEAN,
    CIFAR100_STD,
    FASHION_MNIST_MEAN,
    FASHION_MNIST_STD,
)

__all__ = ['cifar10', 'cifar100', 'fashion_mnist']


@dataclass(frozen=True)
class _Files:
    """The files of a data set, and how to read them.

    Args:
        reader: Torchvision's class for the data set.
        folder: The folder of the files, relative to the root.
        num_classes: Number of classes.
        pad: Largest random shift of an augmented image, in pixels.
    """

    reader: Callable[..., Any]
    folder: str
    num_classes: int
    pad: int

    def load(
        self,
        split: str,
        root: str | Path | None,
        augment: bool,
        download: bool,
        mean: Sequence[float],
        std: Sequence[float],
        size: int | None,
    ) -> ImageTensors:
        """Reads one split; for the arguments see `cifar10`."""
        check_split(split, ('train', 'test'))
        raw = open_torchvision(self.reader, self.folder, root, split == 'train', download)
        pixels = torch.as_tensor(raw.data)
        images = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)  # (N, H, W) if grey
        targets = torch.as_tensor(raw.targets).tolist()
        pad = self.pad if augment else 0
        return ImageTensors(
            images, targets, self.num_classes, mean, std, pad=pad, flip=augment, size=size, classes=raw.classes
        )


_CIFAR10 = _Files(datasets.CIFAR10, 'cifar-10-batches-py', num_classes=10, pad=4)
_CIFAR100 = _Files(datasets.CIFAR100, 'cifar-100-python', num_classes=100, pad=4)
_FASHION_MNIST = _Files(datasets.FashionMNIST, 'FashionMNIST/raw', num_classes=10, pad=2)


def cifar10(
    split: str = 'train',
    root: str | Path | None = None,
    augment: bool = False,
    n_labels: int | None = None,
    keep_unlabelled: bool = True,
    seed: int = 0,
    download: bool = False,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
    size: int | None = None,
    subset: int | None = None,
) -> Dataset[tuple[Tensor, int]]:
    """Loads CIFAR-10: 50,000 training and 10,000 test images of 32x32 colour pixels, ten classes.

    Args:
        split: ``'train'`` or ``'test'``.
        root: The folder that contains ``cifar-10-batches-py``; None for the environment variable
            ``COMPOSER_KD_DATA``, or ``./data`` if it is not set.
        augment: Whether to pad by 4 pixels, crop at random, and flip half of the images horizontally.
        n_labels: The number of samples that keep their label, class-balanced; None for all.
        keep_unlabelled: Whether the other samples stay, with the label -100, or are dropped.
        seed: Seed of the choice of labelled samples.
        download: Whether to download missing files.
        mean: Subtracted from each channel, for pixels from 0 to 1.
        std: Each channel is divided by it.
        size: Height and width in pixels to resize to; None keeps 32.
        subset: The number of samples to select first, by a fixed class-balanced choice; None for all.

    Returns:
        A data set of ``(x, y)``, a float32 image ``(3, 32, 32)``, or ``(3, size, size)``, and its class.

    Raises:
        ConfigError: If the files are missing or damaged, the download fails, ``split`` is unknown, or a number is out
            of range.

    Example:
        >>> cifar10('validation')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: split: expected one of ['train', 'test'], got 'validation'; \
valid: test, train
    """
    dataset = _CIFAR10.load(split, root, augment, download, mean, std, size)
    return restrict(dataset, subset, n_labels, keep_unlabelled, seed)


def cifar100(
    split: str = 'train',
    root: str | Path | None = None,
    augment: bool = False,
    n_labels: int | None = None,
    keep_unlabelled: bool = True,
    seed: int = 0,
    download: bool = False,
    mean: Sequence[float] = CIFAR100_MEAN,
    std: Sequence[float] = CIFAR100_STD,
    size: int | None = None,
    subset: int | None = None,
) -> Dataset[tuple[Tensor, int]]:
    """Loads CIFAR-100: like CIFAR-10 with a hundred classes, from the folder ``cifar-100-python``.

    For arguments, result and errors see `cifar10`.

    Example:
        >>> cifar100('validation')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: split: expected one of ['train', 'test'], got 'validation'; \
valid: test, train
    """
    dataset = _CIFAR100.load(split, root, augment, download, mean, std, size)
    return restrict(dataset, subset, n_labels, keep_unlabelled, seed)


def fashion_mnist(
    split: str = 'train',
    root: str | Path | None = None,
    augment: bool = False,
    n_labels: int | None = None,
    keep_unlabelled: bool = True,
    seed: int = 0,
    download: bool = False,
    mean: Sequence[float] = FASHION_MNIST_MEAN,
    std: Sequence[float] = FASHION_MNIST_STD,
    size: int | None = None,
    subset: int | None = None,
) -> Dataset[tuple[Tensor, int]]:
    """Loads Fashion-MNIST: 60,000 training and 10,000 test images of 28x28 grey pixels, ten classes.

    For arguments and errors see `cifar10`; the files are in ``FashionMNIST/raw`` below the root, and ``augment`` pads
    by 2 pixels.

    Returns:
        A data set of ``(x, y)``, a float32 image ``(1, 28, 28)``, or ``(1, size, size)``, and its class.

    Example:
        >>> fashion_mnist('trian')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: split: expected one of ['train', 'test'], got 'trian'; \
did you mean 'train'?
    """
    dataset = _FASHION_MNIST.load(split, root, augment, download, mean, std, size)
    return restrict(dataset, subset, n_labels, keep_unlabelled, seed)
