"""What the arguments of several commands have in common."""

from __future__ import annotations

import argparse

__all__ = ['positive', 'shape']


def positive(text: str) -> int:
    """Reads a whole number of 1 or more.

    Args:
        text: As typed.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a whole number of 1 or more, got {text!r}')
    return int(text)


def shape(text: str) -> tuple[int, ...]:
    """Reads the sizes of a tensor.

    Args:
        text: As typed: ``1,3,32,32``.

    Returns:
        The sizes.

    Raises:
        argparse.ArgumentTypeError: If one of them is no whole number above 0.
    """
    sizes = [size.strip() for size in text.split(',')]
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"expected whole numbers as '1,3,32,32', got {text!r}")
    return tuple(map(int, sizes))
