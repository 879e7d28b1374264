"""Images held as one tensor of bytes, prepared a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from composer_kd.errors import ConfigError

__all__ = ['ImageTensors', 'random_crop_and_flip']


class ImageTensors(Dataset[tuple[Tensor, int]]):
    """Small images in memory: ``(uint8 / scale - mean) / std``, on request cropped and flipped at random.

    A ``DataLoader`` asks for a whole batch of indices at once, which is then prepared by a few tensor
    operations. Random numbers come from torch's global generator, one crop and one flip per sample.

    Args:
        images: Bytes of shape ``(N, C, H, W)``.
        targets: The class of each image, ``N`` integers.
        num_classes: Number of classes.
        mean: Subtracted from each channel, after division by ``scale``: ``C`` numbers.
        std: Each channel is divided by it: ``C`` positive numbers.
        scale: The byte that stands for full brightness.
        pad: Pixels of black put around an image before a random crop of its old size; 0 for no crop.
        flip: Whether to mirror half of the images, chosen at random.
        size: Height and width in pixels to resize to, bilinearly; None keeps the images' own.

    Attributes:
        shift: What is subtracted from the bytes of each channel: ``scale * mean``, of shape ``(C, 1, 1)``.
        spread: What the difference is divided by: ``scale * std``, of the same shape.

    Raises:
        ConfigError: If the lengths don't fit one another, or a ``std`` or ``size`` isn't positive.

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
        """Prepares a batch: what a ``DataLoader`` calls.

        Args:
            indices: Which samples.

        Returns:
            For each index the image, float ``(C, H, W)``, and its class.
        """
        x = self.images[torch.as_tensor(indices)]
        if self.pad or self.flip:
            x = random_crop_and_flip(x, self.pad, self.flip)
        x = x.float().sub_(self.shift).div_(self.spread)
        if self.size is not None:
            x = F.interpolate(x, size=(self.size, self.size), mode='bilinear', antialias=True)
        return [(image, self.targets[index]) for image, index in zip(x.unbind(), indices)]


def random_crop_and_flip(x: Tensor, pad: int, flip: bool) -> Tensor:
    """Shifts each image by up to ``pad`` pixels in both directions, and mirrors half of them.

    Args:
        x: Images of shape ``(B, C, H, W)``.
        pad: Pixels of zeros put around an image before it is cropped to its old size.
        flip: Whether to mirror left and right with probability one half.

    Returns:
        A new tensor of the same shape.

    Example:
        >>> _ = torch.manual_seed(1)
        >>> random_crop_and_flip(torch.ones(1, 1, 2, 3), pad=1, flip=False)
        tensor([[[[1., 1., 0.],
                  [1., 1., 0.]]]])
    """
    count, _, height, width = x.shape
    windows = F.pad(x, (pad, pad, pad, pad)).unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(0, 2 * pad + 1, (2, count))
    x = windows[torch.arange(count), :, top, left]
    if flip:
        mirrored = torch.rand(count).lt(0.5).view(count, 1, 1, 1)
        x = torch.where(mirrored, x.flip(3), x)
    return x
