"""Images stored as one uint8 tensor and preprocessed in batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from composer_kd.data.counter_random import small_integers
from composer_kd.errors import ConfigError

__all__ = ['ImageTensors', 'crop_and_flip', 'random_crop_and_flip']


class ImageTensors(Dataset[tuple[Tensor, int]]):
    """Small images in memory, normalised to ``(uint8 / scale - mean) / std``, with optional random crops and flips.

    A ``DataLoader`` requests a whole batch of indices at once, which a few tensor operations then preprocess. Random
    numbers come from torch's global generator, one crop and one flip per sample; :class:`.SeededViews` makes them a
    function of the sample.

    Args:
        images: uint8 images ``(N, C, H, W)``.
        targets: The class of each image, ``N`` integers.
        num_classes: Number of classes.
        mean: Subtracted from each channel after division by ``scale``: ``C`` numbers.
        std: Each channel is divided by it: ``C`` positive numbers.
        scale: The pixel value of full brightness.
        pad: Width in pixels of a black border that is added before a random crop to the original size; 0 for no crop.
        flip: Whether to flip half of the images horizontally, chosen at random.
        size: Height and width in pixels to resize to, bilinearly; None keeps the size of the images.
        classes: The names of the classes in the order of their numbers; None if they have none.

    Attributes:
        classes: The names of the classes, if they have any.
        shift: ``scale * mean``, ``(C, 1, 1)``; subtracted from the pixel values.
        spread: ``scale * std``, ``(C, 1, 1)``; the difference is divided by it.

    Raises:
        ConfigError: If the lengths do not match, or a ``std`` or ``size`` is not positive.

    Example:
        >>> images = torch.full((4, 3, 8, 8), 51, dtype=torch.uint8)
        >>> dataset = ImageTensors(images, [0, 1, 2, 0], 3, mean=(0.0, 0.0, 0.1), std=(1.0, 0.5, 1.0))
        >>> x, y = dataset[2]
        >>> [round(value, 6) for value in x[:, 0, 0].tolist()], y
        ([0.2, 0.4, 0.1], 2)
    """

    def __init__(
        self,
        images: Tensor,
        targets: Sequence[int],
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        scale: float = 255.0,
        pad: int = 0,
        flip: bool = False,
        size: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        channels = images.shape[1]
        if len(targets) != len(images):
            raise ConfigError(f'targets: expected one for each of {len(images)} images, got {len(targets)}.')
        for name, values in (('mean', mean), ('std', std)):
            if len(values) != channels:
                raise ConfigError(f'{name}: expected a number for each of {channels} channels, got {list(values)}.')
        if min(std) <= 0:
            raise ConfigError(f'std: expected positive numbers, got {list(std)}.')
        if size is not None and size < 1:
            raise ConfigError(f'size: expected a number of pixels or None, got {size!r}.')
        self.images = images.contiguous()
        self.targets = [int(target) for target in targets]
        self.num_classes = num_classes
        if classes is not None:
            self.classes = list(classes)
        self.scale = scale
        self.pad = pad
        self.flip = flip
        self.size = size
        self.shift = scale * torch.tensor(mean).view(channels, 1, 1)
        self.spread = scale * torch.tensor(std).view(channels, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Loads and preprocesses the samples of a batch; used by ``DataLoader``.

        Args:
            indices: Indices of the samples.

        Returns:
            For each index, the float32 image ``(C, H, W)`` and its class.
        """
        x = self.images[torch.as_tensor(indices)]
        if self.pad or self.flip:
            x = random_crop_and_flip(x, self.pad, self.flip)
        return self._finished(x, indices)

    def get_seeded(self, indices: Sequence[int], seeds: NDArray[np.uint64]) -> list[tuple[Tensor, int]]:
        """Loads samples with crops and flips that are a function of a seed for each sample; see `seeded_items`.

        Args:
            indices: Indices of the samples.
            seeds: uint64, one for each index.

        Returns:
            For each index, the float32 image ``(C, H, W)`` and its class.
        """
        x = self.images[torch.as_tensor(indices)]
        if self.pad or self.flip:
            places = 2 * self.pad + 1
            top, left, side = torch.from_numpy(small_integers(seeds, (places, places, 2)))
            x = crop_and_flip(x, self.pad, top, left, side.bool() if self.flip else None)
        return self._finished(x, indices)

    def picture(self, index: int) -> Image.Image:
        """An image as it is stored, for people to look at.

        Args:
            index: The index of the sample.

        Returns:
            A grey or a colour image of 8 bits.
        """
        pixels = self.images[index].float().mul(255.0 / self.scale).round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.movedim(0, -1)).numpy())

    def prepare(self, picture: Image.Image) -> Tensor:
        """Makes the inputs of a sample from an image that is not of the data set, without random transforms.

        Args:
            picture: An image of any size. Its centre is cut out, resized to the size of the stored images, and made
                grey if these are.

        Returns:
            float32 ``(C, H, W)``; of :meth:`picture`, what the data set itself gives.
        """
        channels, height, width = self.images.shape[1:]
        fitting = picture.convert('L' if channels == 1 else 'RGB')
        if fitting.size != (width, height):
            fitting = ImageOps.fit(fitting, (width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(fitting)).float().mul(self.scale / 255.0).round()
        x = pixels[None] if channels == 1 else pixels.movedim(-1, 0)
        return self._normalised(x.unsqueeze(0)).squeeze(0)

    def extra_repr(self) -> str:
        """Returns what the images go through, as text: the same on all machines."""
        mean, std = ([round(value, 6) for value in tensor.flatten().tolist()] for tensor in (self.shift, self.spread))
        return f'pad={self.pad}, flip={self.flip}, size={self.size}, shift={mean}, spread={std}'

    def _finished(self, x: Tensor, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        return [(image, self.targets[index]) for image, index in zip(self._normalised(x).unbind(), indices)]

    def _normalised(self, x: Tensor) -> Tensor:
        x = x.float().sub_(self.shift).div_(self.spread)
        if self.size is not None:
            x = F.interpolate(x, size=(self.size, self.size), mode='bilinear', antialias=True)
        return x


def random_crop_and_flip(x: Tensor, pad: int, flip: bool) -> Tensor:
    """Shifts each image by up to ``pad`` pixels in both directions, and flips half of the images horizontally.

    Args:
        x: Images ``(B, C, H, W)``.
        pad: Width in pixels of a border of zeros that is added before a random crop to the original size.
        flip: Whether to flip each image horizontally with probability one half.

    Returns:
        A new tensor of the same shape.

    Example:
        >>> _ = torch.manual_seed(1)
        >>> random_crop_and_flip(torch.ones(1, 1, 2, 3), pad=1, flip=False)
        tensor([[[[1., 1., 0.],
                  [1., 1., 0.]]]])
    """
    count = len(x)
    top, left = torch.randint(0, 2 * pad + 1, (2, count))
    return crop_and_flip(x, pad, top, left, torch.rand(count).lt(0.5) if flip else None)


def crop_and_flip(x: Tensor, pad: int, top: Tensor, left: Tensor, mirrored: Tensor | None) -> Tensor:
    """Crops each image, after padding, to its original size, and flips some of the images horizontally.

    Args:
        x: Images ``(B, C, H, W)``.
        pad: Width in pixels of a border of zeros that is added first.
        top: First row of each crop, from 0 to ``2 * pad``: int64 ``(B,)``.
        left: First column of each crop, likewise.
        mirrored: Which of the crops to flip: bool ``(B,)``; None for none of them.

    Returns:
        A new tensor of the same shape.

    Example:
        >>> one = torch.tensor([1])
        >>> crop_and_flip(torch.tensor([[[[1.0, 2.0, 3.0]]]]), 1, one, one * 2, one.bool())
        tensor([[[[0., 3., 2.]]]])
    """
    count, channels, height, width = x.shape
    columns = torch.arange(width)
    if mirrored is not None:
        columns = torch.where(mirrored.unsqueeze(1), columns.flip(0), columns)
    rows = (top.unsqueeze(1) + torch.arange(height)).unsqueeze(2)
    places = rows * (width + 2 * pad) + (left.unsqueeze(1) + columns).unsqueeze(1)
    places = places.view(count, 1, height * width).expand(count, channels, height * width)
    return F.pad(x, (pad, pad, pad, pad)).flatten(2).gather(2, places).view(x.shape)  # faster than windows
