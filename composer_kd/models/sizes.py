"""Checks of the sizes that image models are built with."""

from __future__ import annotations

from collections.abc import Sequence

from composer_kd.errors import ConfigError

__all__ = ['ImageSize', 'check_at_least', 'height_and_width']

ImageSize = int | Sequence[int]  # pixels: one number for a square, or (height, width)


def check_at_least(least: int, **sizes: int) -> None:
    """Checks that integer settings are large enough.

    Args:
        least: The smallest allowed value.
        **sizes: Settings by name.

    Raises:
        ConfigError: If one of them is not an integer, or is smaller than ``least``.

    Example:
        >>> check_at_least(1, num_classes=10, in_channels=3)
        >>> check_at_least(1, num_classes=0)
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: num_classes: expected an integer of at least 1, got 0.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < least:
            raise ConfigError(f'{name}: expected an integer of at least {least}, got {size!r}.')


def height_and_width(image_size: ImageSize, least: int = 1) -> tuple[int, int]:
    """Reads an image size, given as one number for square images or as ``(height, width)``.

    Args:
        image_size: In pixels.
        least: The smallest allowed height and width, in pixels.

    Returns:
        ``(height, width)`` in pixels.

    Raises:
        ConfigError: If it has neither form, or height or width is below ``least``.

    Example:
        >>> height_and_width(32), height_and_width((28, 20))
        ((32, 32), (28, 20))
    """
    edges = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
    if len(edges) != 2 or any(isinstance(edge, bool) or not isinstance(edge, int) for edge in edges):
        raise ConfigError(f'image_size: expected an integer or (height, width), got {image_size!r}.')
    if min(edges) < least:
        raise ConfigError(
            f'image_size: expected at least {least} pixels in height and width, got {image_size!r}; '
            'enlarge the images (the data sets take size=...) or choose a model that shrinks them less.'
        )
    return edges[0], edges[1]
