"""Colours of the models of a report, and colour scales for differences."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.colors import LinearSegmentedColormap

from composer_kd.presentation.plots import BLUE, GREY, ORANGE, RED
from composer_kd.presentation.roles import ALONE, DISTILLED, TEACHER
from composer_kd.reports.groups import Group

__all__ = ['between', 'colours']


_MORE = {
    TEACHER: (GREY, '#111827', '#9ca3af', '#57534e'),
    ALONE: (ORANGE, '#92400e', '#f59e0b', RED),
    DISTILLED: (BLUE, '#0891b2', '#7c3aed', '#0f766e', '#be185d', '#4d7c0f', '#93c5fd', '#1e3a8a'),
}


def colours(groups: Sequence[Group]) -> dict[str, str]:
    """Returns a colour for each group by name: the colour of its role, and other shades if several share the role."""
    seen: dict[str, int] = {}
    found = {}
    for each in groups:
        shades = _MORE[each.role]
        found[each.name] = shades[seen.get(each.role, 0) % len(shades)]
        seen[each.role] = seen.get(each.role, 0) + 1
    return found


def between(less: str, more: str) -> LinearSegmentedColormap:
    """Returns a colour scale for differences, from one colour through white to the other."""
    # Slightly different from the colours of the roles, which a dark page replaces: here a colour encodes a number.
    ends = [f'#{int(colour[1:], 16) ^ 1:06x}' for colour in (less, more)]
    return LinearSegmentedColormap.from_list(f'{less}-{more}', [ends[0], '#ffffff', ends[1]])
