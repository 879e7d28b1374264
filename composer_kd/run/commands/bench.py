"""``composer-kd bench``."""

from __future__ import annotations

import argparse

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'latency, throughput, memory and accuracy of models on this machine'
ABOUT = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    raise NotImplementedError
