"""Leaves out remarks of Composer that are true, harmless, and repeated in every run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ['quiet_profiler', 'without_remarks']

# Each by its beginning; whatever else is warned of comes through.
_REMARKS = (
    'No optimizer was specified',  # nothing is trained when a checkpoint is evaluated
    'Cannot split tensor of length',  # the last batch of an epoch is smaller than the others
    'pkg_resources is deprecated',
    'The profiler is enabled',  # as was asked for
)


@contextmanager
def without_remarks() -> Iterator[None]:
    """Silences the remarks while the block runs.

    Example:
        >>> with without_remarks():
        ...     warnings.warn('No optimizer was specified. Defaulting to ...')
    """
    with warnings.catch_warnings():
        for remark in _REMARKS:
            warnings.filterwarnings('ignore', message=remark)
        yield


def quiet_profiler() -> None:
    """Keeps torch's profiler from reporting as an error that there is no GPU; call it before the first profile.

    It writes past Python's streams, and listens to nothing but this variable; what the user sets stays.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault('KINETO_LOG_LEVEL', '99')
