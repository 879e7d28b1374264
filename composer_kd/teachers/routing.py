"""Which teachers teach each sample: read from a column of the batch, or said by a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

import torch
from torch import Tensor

from composer_kd.batches.masks import samples_of
from composer_kd.batches.parts import size_of
from composer_kd.errors import ComposerKDError, ConfigError, is_of_device, nearest

__all__ = ['Group', 'Route', 'RouteBy', 'groups_of']

RouteBy: TypeAlias = Annotated[str | Callable[[Any, Tensor | None], Any], 'a route']
"""The name of a column, or a function ``(batch, index)``; in a YAML file, a name with a dot is a function's path."""

Group: TypeAlias = tuple[tuple[int, ...], Tensor]
"""The numbers of some teachers, and ``(N,)`` the positions in the microbatch of the samples that they teach."""


class Route:
    """Says which teachers teach each sample of a batch.

    Args:
        by: The name of a column of mapping batches; or a function of a batch as models take it and ``(B,)`` the
            samples' numbers (``None`` if unknown). What is said of a sample must not depend on the other samples of its
            batch. It says, as integers ``(B,)``, the number of each sample's teacher, -1 for none; or, as booleans
            ``(B, teachers)``, its teachers.
        teachers: The number of teachers.

    Raises:
        ConfigError: If ``by`` is neither.

    Example:
        >>> route = Route('teacher_id', teachers=2)
        >>> batch = {'x': torch.zeros(3, 2), 'teacher_id': torch.tensor([1, -1, 0])}
        >>> route(batch, batch).tolist()
        [[False, True], [False, False], [True, False]]
    """

    def __init__(self, by: RouteBy, teachers: int) -> None:
        if not callable(by) and not (isinstance(by, str) and by):
            raise ConfigError(f'route must be the name of a column or a function (batch, index), got {by!r}')
        self._by, self._teachers = by, teachers
        self.gives_one = False  # whether it said one teacher for each sample, of the last batch

    @property
    def column(self) -> str | None:
        """The column that it reads; ``None`` if a function says it."""
        return self._by if isinstance(self._by, str) else None

    def __call__(self, whole: Any, batch: Any, index: Tensor | None = None) -> Tensor:
        """Reads the teachers of a batch or microbatch.

        Args:
            whole: The batch as the run has it, with the column.
            batch: The batch as models take it.
            index: ``(B,)`` The samples' numbers.

        Returns:
            Booleans ``(B, teachers)`` on the CPU: on an accelerator, the host waits for them.

        Raises:
            ConfigError: If there is no such column, the function fails, or it says something else than described.
        """
        said = self._read(whole) if isinstance(self._by, str) else self._called(batch, index)
        size = samples_of(batch) or size_of(batch)
        try:
            said = torch.as_tensor(said).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            if is_of_device(error):
                raise
            raise self._wrong(f'a {type(said).__name__}', size) from None
        self.gives_one = said.ndim == 1
        if said.dtype == torch.bool and said.ndim == 2 and said.shape[1] == self._teachers:
            taught = said
        elif said.ndim == 1 and said.dtype != torch.bool and not said.is_floating_point() and not said.is_complex():
            said = said.to(torch.int64)  # in uint8, -1 would be 255
            outside = ((said < -1) | (said >= self._teachers)).nonzero()
            if len(outside):
                raise self._wrong(f'{said[outside[0, 0]].item()} for sample {outside[0, 0].item()} of a batch', size)
            taught = said.unsqueeze(1) == torch.arange(self._teachers)
        else:
            raise self._wrong(f'{str(said.dtype).removeprefix("torch.")} {tuple(said.shape)}', size)
        if size is not None and taught.shape[0] != size:
            raise self._wrong(f'{taught.shape[0]} for a batch of {size} samples', size)
        return taught

    def _read(self, whole: Any) -> Any:
        assert isinstance(self._by, str)
        if not isinstance(whole, Mapping):
            raise ConfigError(
                f'route={self._by!r} names a column, and a batch is a {type(whole).__name__}, without names. Give a '
                'function: route=lambda batch, index: ... (index: the numbers of samples, of a data set in '
                'composer_kd.data.Indexed)'
            )
        if self._by not in whole:
            raise ConfigError(
                f'route={self._by!r}: the batch has no such column{nearest(self._by, map(str, whole))}. Let the data '
                'set and the collate function keep it'
            )
        return whole[self._by]

    def _called(self, batch: Any, index: Tensor | None) -> Any:
        assert callable(self._by)
        try:
            return self._by(batch, index)
        except ComposerKDError:
            raise
        except Exception as error:
            if is_of_device(error):
                raise
            numbers = '' if index is not None else (
                '; the numbers of samples are None, because the data set is not in composer_kd.data.Indexed, or the '
                'model takes none (composer_kd.models.IndexedClassifier)'
            )  # fmt: skip
            raise ConfigError(f'{self!r} fails: {type(error).__name__}: {error}{numbers}') from error

    def _wrong(self, got: str, size: int | None) -> ConfigError:
        return ConfigError(
            f'{self!r}: expected integers ({size or "B"},) from 0 to {self._teachers - 1}, -1 for no teacher, or '
            f'booleans ({size or "B"}, {self._teachers}); got {got}'
        )

    def __repr__(self) -> str:
        function = getattr(self._by, 'func', self._by)  # of a partial
        name = self._by if isinstance(self._by, str) else getattr(function, '__qualname__', type(function).__qualname__)
        return f'route={name!r}'


def groups_of(taught: Tensor) -> list[Group]:
    """Gathers the samples that have the same teachers.

    Args:
        taught: Booleans ``(B, teachers)``.

    Returns:
        The groups, in the order of their teachers; samples without a teacher are in none.

    Example:
        >>> groups_of(torch.tensor([[True, False], [False, True], [True, False], [False, False]]))
        [((0,), tensor([0, 2])), ((1,), tensor([1]))]
    """
    if not taught.any():
        return []
    kinds, which = taught.unique(dim=0, return_inverse=True)
    found = [(tuple(kind.nonzero().squeeze(1).tolist()), number) for number, kind in enumerate(kinds)]
    return [(teachers, (which == number).nonzero().squeeze(1)) for teachers, number in sorted(found) if teachers]
