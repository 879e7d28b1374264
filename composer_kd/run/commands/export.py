"""``composer-kd export``."""

from __future__ import annotations

import argparse

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'the student alone, in the format of another runtime'
ABOUT = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    raise NotImplementedError
