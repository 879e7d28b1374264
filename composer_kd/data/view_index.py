"""The index of a sample together with its view."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

__all__ = ['ViewIndex', 'first_items']


class ViewIndex(int):
    """The index of a sample in a data set, together with the view to load; see :class:`.SeededViews`.

    It is an integer, and stays what it is in the worker processes of a ``DataLoader``.

    Args:
        sample: The index of the sample.
        view: The number of the view.

    Example:
        >>> index = ViewIndex(7, view=2)
        >>> index, index.view, ['a', 'b', 'c'][ViewIndex(1, 0)]
        (ViewIndex(7, view=2), 2, 'b')
    """

    view: int

    @override
    def __new__(cls, sample: int, view: int) -> ViewIndex:
        index = super().__new__(cls, sample)
        index.view = view
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        return ViewIndex, (int(self), self.view)

    def __repr__(self) -> str:
        return f'ViewIndex({int(self)}, view={self.view})'


def first_items(dataset: Any, count: int) -> list[Any]:
    """Loads the first samples of any map-style data set, those of :class:`.SeededViews` in view 0.

    Args:
        dataset: The data set.
        count: How many samples to load; fewer if the data set has fewer.

    Returns:
        The samples.

    Example:
        >>> first_items(['a', 'b', 'c'], 2)
        ['a', 'b']
    """
    return [dataset[ViewIndex(index, view=0)] for index in range(min(count, len(dataset)))]
