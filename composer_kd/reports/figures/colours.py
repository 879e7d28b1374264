"""Colours of the models of a report, and scales of colours for differences."""

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
    """A colour for each group: that of its role, and others where several have that role."""
    seen: dict[str, int] = {}
    found = {}
    for each in groups:
        shades = _MORE[each.role]
        found[each.name] = shades[seen.get(each.role, 0) % len(shades)]
        seen[each.role] = seen.get(each.role, 0) + 1
    return found


def between(less: str, more: str) -> LinearSegmentedColormap:
    """A scale of colours from one over white to the other, for differences."""
    # A shade beside those of the roles, which a dark page replaces: here the colour is the number.
    ends = [f'#{int(colour[1:], 16) ^ 1:06x}' for colour in (less, more)]
    return LinearSegmentedColormap.from_list(f'{less}-{more}', [ends[0], '#ffffff', ends[1]])
