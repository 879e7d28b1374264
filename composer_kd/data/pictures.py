"""The images of a data set as pictures for people, and pictures from elsewhere as inputs of its samples."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from composer_kd.data.collating import chain_of
from composer_kd.errors import ConfigError

__all__ = ['MOST_PIXELS', 'Pictures', 'pictures_of', 'read_picture', 'shown']

MOST_PIXELS = 40_000_000
"""The largest picture from elsewhere that is decoded."""


@dataclass(frozen=True)
class Pictures:
    """The images of a data set, and how a picture becomes an input.

    Attributes:
        count: The number of samples.
        picture: The image of a sample, before it was normalised.
        target: The class of a sample; negative if it has none.
        prepare: Turns a picture of any size into the inputs ``(C, H, W)`` of a sample; of what ``picture`` gives, into
            what the data set gives.
    """

    count: int
    picture: Callable[[int], Image.Image]
    target: Callable[[int], int]
    prepare: Callable[[Image.Image], Tensor]


def pictures_of(dataset: Any) -> Pictures:
    """Finds out how the images of a data set are made from pictures.

    Args:
        dataset: A data set of ``composer_kd.data`` or torchvision, in any wrappers with ``dataset`` and ``indices``; or
            one that has itself the methods ``picture(index)`` and ``prepare(picture)``.

    Returns:
        Its pictures.

    Raises:
        ConfigError: If it does not say how.

    Example:
        >>> from composer_kd.data import digits
        >>> dataset = digits('test', subset=50)
        >>> found = pictures_of(dataset)
        >>> found.count, found.picture(3).size, bool((found.prepare(found.picture(3)) == dataset[3][0]).all())
        (50, (8, 8), True)
    """
    chain = list(chain_of(dataset))
    inner = chain[-1]
    if callable(getattr(inner, 'picture', None)) and callable(getattr(inner, 'prepare', None)):
        picture, prepare = inner.picture, inner.prepare
    elif callable(getattr(inner, 'transform', None)):
        picture, prepare = _of_torchvision(inner)
    else:
        raise ConfigError(
            f'{type(inner).__name__} does not say how a picture becomes one of its samples; expected a data set of '
            'composer_kd.data or torchvision, or one with the methods picture(index), which returns a PIL image, and '
            'prepare(picture), which returns the inputs of a sample'
        )
    numbers = _numbers([one.indices for one in chain if isinstance(getattr(one, 'indices', None), Sequence)])
    return Pictures(len(dataset), lambda index: picture(numbers(index)), lambda index: _target(dataset, index), prepare)


def _of_torchvision(dataset: Any) -> tuple[Callable[[int], Image.Image], Callable[[Image.Image], Tensor]]:
    bare = copy.copy(dataset)
    bare.transform = bare.target_transform = bare.transforms = None
    mode = bare[0][0].mode

    def picture(index: int) -> Image.Image:
        image: Image.Image = bare[index][0]
        return image

    return picture, lambda image: dataset.transform(image.convert(mode))


def _numbers(chosen: Sequence[Sequence[int]]) -> Callable[[int], int]:
    """Maps the number of a sample to that in the innermost data set."""

    def number(index: int) -> int:
        for indices in chosen:
            index = indices[index]
        return index

    return number


def _target(dataset: Any, index: int) -> int:
    targets = getattr(dataset, 'targets', None)
    return int(dataset[index][1] if targets is None else targets[index])


def read_picture(content: bytes) -> Image.Image:
    """Decodes a picture that somebody sent, turned upright as its camera says.

    Args:
        content: The bytes of a file: PNG, JPEG, WebP, GIF or BMP.

    Returns:
        The picture, in memory.

    Raises:
        ConfigError: If it is none of these, is damaged, or has more than :data:`MOST_PIXELS` pixels.

    Example:
        >>> read_picture(b'no picture')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: expected a picture (PNG, JPEG, WebP, GIF or BMP), got something else
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image = Image.open(io.BytesIO(content), formats=('PNG', 'JPEG', 'WEBP', 'GIF', 'BMP'))
            if image.width * image.height > MOST_PIXELS:
                raise ConfigError(
                    f'expected a picture of at most {MOST_PIXELS:,} pixels, got {image.width} x {image.height}'
                )
            image.load()
            return _of_8_bits(ImageOps.exif_transpose(image) or image)
    except ConfigError:
        raise
    except UnidentifiedImageError as error:
        raise ConfigError('expected a picture (PNG, JPEG, WebP, GIF or BMP), got something else') from error
    except Exception as error:  # decoders raise errors of many types for damaged files
        raise ConfigError(f'the picture is damaged: {type(error).__name__}: {error}') from error


def _of_8_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits with 8, scaled: ``convert`` would make all but the darkest of its pixels white."""
    if not image.mode.startswith('I'):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))


def shown(x: Tensor) -> Image.Image:
    """Draws the inputs of a sample as a picture: the darkest value is black and the brightest white.

    Args:
        x: ``(C, H, W)`` with one or three channels, or more, of which the first is drawn.

    Returns:
        A picture of as many pixels.
    """
    x = x.detach().float().cpu()
    spread = (x.max() - x.min()).clamp(min=1e-12)
    pixels = ((x - x.min()) / spread * 255).round().byte()
    return Image.fromarray((pixels.movedim(0, -1) if len(x) == 3 else pixels[0]).numpy())
