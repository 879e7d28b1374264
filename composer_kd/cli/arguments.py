"""Types of arguments that several commands use."""

from __future__ import annotations

import argparse

__all__ = ['add_allow_imports', 'add_common', 'positive', 'shape']


def add_allow_imports(parser: argparse.ArgumentParser) -> None:
    """Adds the option of commands that open saved runs, whose own ``allow_imports`` is not believed."""
    parser.add_argument(
        '--allow-imports',
        type=_packages,
        default=(),
        metavar='PACKAGE,PACKAGE',
        help='further packages that the config.yaml of a run may name; importing them runs their code',
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every command has."""
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument('-q', '--quiet', action='store_true', help='print results and errors alone: no progress')
    loudness.add_argument('-v', '--verbose', action='store_true', help='show what Composer and this package log')
    parser.add_argument('--debug', action='store_true', help='show the traceback for wrong input too')


def _packages(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.strip('[]').split(','))
    if not all(map(str.isidentifier, names)):
        raise argparse.ArgumentTypeError(f'expected names of packages with commas between them, got {text!r}')
    return names


def positive(text: str) -> int:
    """Reads a whole number of 1 or more.

    Args:
        text: The argument.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: If the text is not such a number.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a whole number of 1 or more, got {text!r}')
    return int(text)


def shape(text: str) -> tuple[int, ...]:
    """Reads the shape of a tensor.

    Args:
        text: The argument, such as ``1,3,32,32``.

    Returns:
        The shape.

    Raises:
        argparse.ArgumentTypeError: If a size is not a whole number above 0.
    """
    sizes = [size.strip() for size in text.split(',')]
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"expected whole numbers as '1,3,32,32', got {text!r}")
    return tuple(map(int, sizes))
