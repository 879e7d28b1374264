"""What processes do together: where one fails, all end with an error that says why."""

from __future__ import annotations

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator

from composer.utils import dist

from composer_kd.errors import StoreError

__all__ = ['Together']


class Together:
    """Work of several processes in parts, of which each begins when all have ended the one before; a collective call.

    Args:
        folder: A folder that all processes see. One that fails leaves a mark there, so that others need not end their
            part before they hear of it.

    Example:
        >>> together = Together('runs/store')
        >>> with together.part():  # on a single process nothing happens
        ...     together.is_over
        False
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._several = dist.get_world_size() > 1
        # A name of its own, so that what an earlier attempt has left says nothing of this one.
        name = dist.all_gather_object(uuid.uuid4().hex)[0] if self._several else ''
        self._mark = pathlib.Path(folder) / f'.failed-{name}'

    @property
    def is_over(self) -> bool:
        """Whether another process has failed; a process in a long part looks now and then, and ends it."""
        return self._several and self._mark.exists()

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """A part of the work, at whose end the processes wait for one another.

        Raises:
            StoreError: If another process has failed. The one that has raises its own error.
        """
        failure = None
        try:
            yield
        except Exception as error:  # of any kind, as the user's own data set or teacher may raise it
            if not self._several:
                raise
            failure = error
            with contextlib.suppress(OSError):  # the disk may be full: the others hear of it at the end of their part
                self._mark.touch()
        said = dist.all_gather_object(None if failure is None else f'{type(failure).__name__}: {failure}')
        failed = next((rank for rank, text in enumerate(said) if text is not None), None)
        if failed is None:
            return
        with contextlib.suppress(OSError):
            self._mark.unlink(missing_ok=True)
        if failure is not None:
            raise failure
        raise StoreError(f'process {failed} of {len(said)} has failed, which ends the work of all: {said[failed]}')
