"""Leaves out remarks of Composer that are true, harmless, and repeated in every run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ['without_remarks']

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
