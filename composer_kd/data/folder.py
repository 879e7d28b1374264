"""Images in one folder per class, as in ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from composer_kd.data.location import check_split
from composer_kd.data.partly_labelled import restrict
from composer_kd.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from composer_kd.errors import ConfigError

__all__ = ['image_folder']

RESIZE_RATIO = 256 / 224  # for evaluation, the shorter edge is resized to this multiple of the centre crop


def image_folder(
    root: str | Path,
    split: str = 'train',
    size: int = 224,
    augment: bool = False,
    n_labels: int | None = None,
    keep_unlabelled: bool = True,
    seed: int = 0,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    subset: int | None = None,
) -> Dataset[tuple[Tensor, int]]:
    """Loads images from ``<root>/train/<class>/<image>`` and ``<root>/val/<class>/<image>``, as in ImageNet.

    Each image is decoded when it is accessed, so use several workers in the ``DataLoader``. Classes are numbered in
    the alphabetical order of their folders.

    Args:
        root: The folder that contains ``train`` and ``val``.
        split: ``'train'`` or ``'val'``.
        size: Height and width of the images in pixels.
        augment: Whether to take a random crop of each image and flip half of the images horizontally. Otherwise the
            shorter edge is resized to 256 / 224 of ``size``, and the centre is cropped.
        n_labels: The number of samples that keep their label, class-balanced; None for all.
        keep_unlabelled: Whether the other samples stay, with the label -100, or are dropped.
        seed: Seed of the choice of labelled samples.
        mean: Subtracted from each channel, for pixels from 0 to 1.
        std: Each channel is divided by it.
        subset: The number of samples to select first, by a fixed class-balanced choice; None for all.

    Returns:
        A data set of ``(x, y)``, a float32 image ``(3, size, size)`` and its class.

    Raises:
        ConfigError: If folders or images are missing, ``split`` is unknown, the classes of ``train`` and ``val``
            differ, or a number is out of range.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = tempfile.TemporaryDirectory()
        >>> for name in ('cat', 'dog'):
        ...     folder = Path(root.name, 'train', name)
        ...     folder.mkdir(parents=True)
        ...     Image.new('RGB', (60, 40)).save(folder / '1.png')
        >>> dataset = image_folder(root.name, size=32)
        >>> len(dataset), dataset.num_classes, tuple(dataset[0][0].shape)
        (2, 2, (3, 32, 32))
        >>> root.cleanup()
    """
    check_split(split, ('train', 'val'))
    if size < 1:
        raise ConfigError(f'size: expected a number of pixels, got {size!r}.')
    place = Path(root).expanduser().absolute()
    try:
        dataset = ImageFolder(str(place / split), transform=_transform(size, augment, mean, std))
    except OSError as error:
        raise ConfigError(
            f'image_folder: expected images in {place / split}/<class>/, got: {error} '
            f'Lay the images out so, one folder for each class, or name another root than {place}.'
        ) from error
    _check_classes(dataset.classes, place / 'train')
    dataset.num_classes = len(dataset.classes)
    return restrict(dataset, subset, n_labels, keep_unlabelled, seed)


def _transform(size: int, augment: bool, mean: Sequence[float], std: Sequence[float]) -> Any:
    if augment:
        shape = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    else:
        shape = [v2.Resize(round(size * RESIZE_RATIO), antialias=True), v2.CenterCrop(size)]
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    return v2.Compose([*shape, *to_float])


def _check_classes(classes: Sequence[str], train: Path) -> None:
    """Checks that the split has the class folders of ``train``, since a missing folder shifts the class numbers."""
    if not train.is_dir():
        return
    expected = sorted(entry.name for entry in train.iterdir() if entry.is_dir())
    if list(classes) != expected:
        differing = sorted(set(expected) ^ set(classes))
        raise ConfigError(
            f'image_folder: expected the same class folders as in {train}, got others for {differing[:5]} '
            f'({len(differing)} in all); add or remove those folders, so that classes have the same numbers.'
        )
