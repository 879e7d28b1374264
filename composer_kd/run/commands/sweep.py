"""``composer-kd sweep``."""

from __future__ import annotations

import argparse

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'search for the best settings of a run'
ABOUT = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    raise NotImplementedError
