"""Which layers of the teacher a student keeps: the strategies, each exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

from composer_kd.errors import ConfigError, nearest

__all__ = ['LayerChoice', 'Strategy', 'chosen_layers', 'most_important']

Strategy: TypeAlias = Literal['top', 'bottom', 'odd', 'even', 'spaced', 'importance']

LayerChoice: TypeAlias = Strategy | list[int]


def chosen_layers(
    layers: LayerChoice, depth: int, num_layers: int | None = None, whose: str = 'the teacher'
) -> list[int]:
    """Returns the layers that a strategy chooses.

    Args:
        layers: A strategy, or indices, from 0 and ascending.

            * ``'bottom'``: the first ones, next to the input: ``0 ... n - 1``.
            * ``'top'``: the last ones, next to the output: ``L - n ... L - 1``.
            * ``'even'``: all with an even index: ``0, 2, 4, ...``, the first layer among them.
            * ``'odd'``: all with an odd index: ``1, 3, 5, ...``, the last layer among them if ``L`` is even.
            * ``'spaced'``: ``n`` evenly spaced ones with the first and the last: ``i (L - 1) / (n - 1)`` for
              ``i = 0 ... n - 1``, rounded, halves up; the first for ``n = 1``. DistilBERT starts from these
              (https://arxiv.org/abs/1910.01108).
        depth: The number of layers ``L`` of the teacher.
        num_layers: The number of layers ``n`` of the student; None: as many as ``layers`` says.
        whose: The stack, for messages.

    Returns:
        Their indices, from 0 and ascending.

    Raises:
        ConfigError: If there are not as many, an index is out of range or repeated, or the number is missing.

    Example:
        >>> chosen_layers('spaced', 12, 6), chosen_layers('odd', 12), chosen_layers('top', 12, 2)
        ([0, 2, 4, 7, 9, 11], [1, 3, 5, 7, 9, 11], [10, 11])
    """
    if isinstance(layers, str):
        return _by_strategy(layers, depth, num_layers, whose)
    return _by_index(layers, depth, num_layers, whose)


def most_important(scores: Sequence[float], count: int) -> list[int]:
    """Returns the indices of the highest scores in ascending order; of equal scores, the first.

    Example:
        >>> most_important([0.1, 0.4, 0.2, 0.4], 2)
        [1, 3]
    """
    return sorted(sorted(range(len(scores)), key=lambda index: -scores[index])[:count])


def check_number(num_layers: object, depth: int, whose: str) -> int:
    """Refuses a number of layers that a stack of the teacher does not have."""
    if isinstance(num_layers, bool) or not isinstance(num_layers, int) or not 1 <= num_layers <= depth:
        raise ConfigError(f'num_layers: expected 1 to {depth}, the layers of {whose}, got {num_layers!r}')
    return num_layers


def _by_strategy(strategy: str, depth: int, num_layers: int | None, whose: str) -> list[int]:
    if strategy not in get_args(Strategy):
        raise ConfigError(f'layers: unknown strategy {strategy!r}{nearest(strategy, get_args(Strategy))}')
    if num_layers is not None:
        check_number(num_layers, depth, whose)
    fixed = {'even': range(0, depth, 2), 'odd': range(1, depth, 2)}
    if strategy in fixed:
        return _all_of(strategy, fixed[strategy], num_layers, whose)
    if num_layers is None:
        raise ConfigError(f'layers: {strategy!r} needs num_layers, the number of layers that the student keeps')
    ways: dict[str, Callable[[int, int], Sequence[int]]] = {
        'bottom': lambda length, count: range(count),
        'top': lambda length, count: range(length - count, length),
        'spaced': _spaced,
    }
    if strategy not in ways:
        raise ConfigError(f'layers: {strategy!r} needs data, batches on which the teacher is measured')
    return list(ways[strategy](depth, num_layers))


def _all_of(strategy: str, found: range, num_layers: int | None, whose: str) -> list[int]:
    if not found:
        raise ConfigError(f'layers: {whose} has no layer with an {strategy} index')
    if num_layers not in (None, len(found)):
        raise ConfigError(
            f'num_layers: {whose} has {len(found)} layers with an {strategy} index, got {num_layers}; leave it out, or '
            "take 'spaced', which keeps any number"
        )
    return list(found)


def _spaced(depth: int, count: int) -> list[int]:
    if count == 1:
        return [0]
    gaps = count - 1
    return [(2 * index * (depth - 1) + gaps) // (2 * gaps) for index in range(count)]  # rounded, in whole numbers


def _by_index(indices: Sequence[int], depth: int, num_layers: int | None, whose: str) -> list[int]:
    given = list(indices)
    valid = [index for index in given if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < depth]
    if not given or len(valid) != len(given):
        raise ConfigError(f'layers: expected indices from 0 to {depth - 1}, the layers of {whose}, got {given}')
    if valid != sorted(set(valid)):
        raise ConfigError(f'layers: expected each index once, and ascending, got {given}')
    if num_layers not in (None, len(valid)):
        raise ConfigError(f'num_layers: {len(valid)} layers are listed, got {num_layers}; leave it out')
    return valid
