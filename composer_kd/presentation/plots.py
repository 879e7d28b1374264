"""The style of all plots: as PNG files, and as SVG in a page with a light or dark theme."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

from markupsafe import escape
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import Bbox

from composer_kd.presentation.roles import ALONE, DISTILLED, TEACHER

__all__ = [
    *('BLUE', 'COLOURS', 'Drawing', 'FAINT', 'GREY', 'GRID', 'INK', 'MUTED', 'ORANGE', 'PAPER', 'RED', 'TEAL'),
    *('canvas', 'heading', 'png', 'tidy', 'title'),
]

GREY, ORANGE, BLUE = '#6b7280', '#d97706', '#2563eb'
"""Three colours that colour-blind readers can distinguish."""

TEAL, RED, FAINT = '#0d9488', '#b91c1c', '#9ca3af'
"""A fourth colour, the colour of failures, and the colour of minor elements."""

COLOURS = {TEACHER: GREY, ALONE: ORANGE, DISTILLED: BLUE}
"""The colour of each role of a model."""

INK, MUTED, GRID, PAPER = '#1f2937', '#4b5563', '#e5e7eb', '#fffffe'
"""Colours that a dark page replaces. ``PAPER``, the background, is an unusual white that can be found in the SVG."""


_THEME = {
    INK: 'ink',
    MUTED: 'muted',
    GRID: 'grid',
    PAPER: 'card',
    RED: 'wrong',
    **{colour: role.split()[-1] for role, colour in COLOURS.items()},
}
_PADS: dict[str, Any] = {'w_pad': 0.1, 'h_pad': 0.1}  # inches
_HALF_A_PAGE = 7.5  # inches
_SETTINGS: dict[str, Any] = {
    'svg.fonttype': 'none',  # text that is read aloud, found and copied
    'svg.hashsalt': 'composer_kd',  # ids that are the same each time
    'font.size': 9.5,
    'axes.titlesize': 10.5,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.labelsize': 9.5,
    'text.color': INK,
    'axes.labelcolor': MUTED,
    'axes.edgecolor': MUTED,
    'xtick.color': MUTED,
    'ytick.color': MUTED,
    'axes.titlecolor': INK,
    'figure.facecolor': PAPER,
    'axes.facecolor': PAPER,
    'hatch.linewidth': 0.8,
}


@dataclass(frozen=True)
class Drawing:
    """A plot with its name, title and caption.

    Args:
        name: The name of its file, without the extension.
        title: Its title.
        caption: Explains what it shows and how it was made.
        figure: The plot.
    """

    name: str
    title: str
    caption: str
    figure: Figure

    @property
    def is_wide(self) -> bool:
        """Whether it needs the full width of the page."""
        return bool(self.figure.get_size_inches()[0] > _HALF_A_PAGE)

    def png(self) -> bytes:
        """Returns the plot on white under its title, as the content of a PNG file."""
        looks: dict[str, Any] = {'fontsize': 12, 'fontweight': 'bold', 'color': INK, 'ha': 'left', 'va': 'bottom'}
        above = 1 + 0.12 / self.figure.get_size_inches()[1]  # a page has the title in its own text
        title = self.figure.text(0.01, above, self.title, **looks)
        try:
            return png(self.figure, bbox_inches='tight', pad_inches=0.1)
        finally:
            title.remove()

    def svg(self) -> str:
        """Returns the plot as SVG markup for a page, with its title and caption as the name and description.

        Colours are CSS variables of the page, ids begin with the name, texts are text.
        """
        stream = io.StringIO()
        with rc_context(_SETTINGS):
            self.figure.savefig(stream, format='svg', transparent=False, metadata={'Date': None, 'Creator': None})
        markup = stream.getvalue()
        markup = markup[markup.index('<svg') :]
        markup = re.sub(r'<metadata>.*?</metadata>', '', markup, flags=re.DOTALL)
        markup = re.sub(r'(<image [^>]*?)id="[^"]*"', r'\1', markup)  # two alike have the same id, and nothing uses it
        markup = re.sub(r'(id="|href="#|url\(#)', rf'\g<1>{self.name}-', markup)
        for colour, variable in _THEME.items():
            markup = markup.replace(colour, f'var(--{variable})')
        width, height = self.figure.get_size_inches()
        told = f'<title id="{self.name}-name">{escape(self.title)}</title>'
        told += f'<desc id="{self.name}-told">{escape(self.caption)}</desc>'
        named = f'role="img" aria-labelledby="{self.name}-name" aria-describedby="{self.name}-told"'
        size = rf'<svg {named} style="max-width: {width * 96:.0f}px" viewBox="0 0 {72 * width:g} {72 * height:g}"'
        return (
            re.sub(r'<svg [^>]*viewBox="[^"]*"[^>]*>', lambda _: f'{size}>{told}', markup, count=1)
            .replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', '')
            .replace(' xmlns="http://www.w3.org/2000/svg"', '')
            .replace('xlink:href', 'href')
            .replace(' version="1.1"', '')
        )

    def panels(self) -> list[str]:
        """Returns views of the SVG for a narrow page, stacked there: one for each panel, then the legends.

        They show parts of the markup of :meth:`svg`, which has to be in the same page. Empty for a single panel.
        """
        with rc_context(_SETTINGS):
            boxes = _columns(self.figure)
            if len(boxes) + len(self.figure.legends) < 2:
                return []
            boxes += [legend.get_window_extent() for legend in self.figure.legends]
        return [self._view(box) for box in boxes]

    def _view(self, box: Any) -> str:
        height = 72 * self.figure.get_size_inches()[1]
        left, low, right, high = (72 / self.figure.dpi * edge for edge in box.extents)
        pad = 3.0  # points
        places = (left - pad, height - high - pad, right - left + 2 * pad, high - low + 2 * pad)
        view = ' '.join(f'{place:.1f}' for place in places)
        use = f'<use href="#{self.name}-figure_1"></use>'
        return f'<svg aria-hidden="true" style="max-width: {places[2] * 4 / 3:.0f}px" viewBox="{view}">{use}</svg>'


def _columns(figure: Figure) -> list[Any]:
    """Returns the boxes of the panels from left to right; axes above one another, and colour bars, are of one."""
    boxes: list[Any] = []
    for axes in sorted(figure.axes, key=lambda axes: axes.get_position().x0):
        box = axes.get_tightbbox() or axes.bbox
        if boxes and (hasattr(axes, '_colorbar') or axes.bbox.x0 < boxes[-1][1]):
            boxes[-1] = Bbox.union([boxes[-1][0], box]), max(boxes[-1][1], axes.bbox.x1)
        else:
            boxes.append((box, axes.bbox.x1))
    return [box for box, _ in boxes]


def png(figure: Figure, **settings: Any) -> bytes:
    """Renders a figure on white and returns the content of a PNG file; ``settings`` are those of ``savefig``."""
    stream = io.BytesIO()
    with rc_context(_SETTINGS):
        figure.savefig(stream, format='png', dpi=160, facecolor='white', **settings)
    return stream.getvalue()


class canvas:
    """Creates a figure in this style, with its size in inches: ``with canvas(7, 3) as figure``."""

    def __init__(self, width: float, height: float) -> None:
        self._settings = rc_context(_SETTINGS)
        self._size = (width, height)

    def __enter__(self) -> Figure:
        self._settings.__enter__()
        # The object interface does not change the caller's matplotlib backend.
        self._figure = Figure(figsize=self._size, layout=ConstrainedLayoutEngine(**_PADS))
        FigureCanvasAgg(self._figure)
        return self._figure

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            # The layout is computed once; computed again for each file, it would differ slightly.
            self._figure.draw_without_rendering()
            self._figure.set_layout_engine('none')
        self._settings.__exit__(*error)


def tidy(axes: Any, grid: str | None = 'y') -> None:
    """Removes the top and right spines, shortens the ticks, and draws grid lines on one axis, both, or none."""
    if grid is not None:
        axes.grid(axis=grid, color=GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=3)


def title(figure: Figure, text: str) -> None:
    """Writes the title of a figure above all its panels."""
    figure.suptitle(text, fontsize=12, fontweight='bold', color=INK, x=0.01, ha='left')


def heading(axes: Any, text: str, under: str = '') -> None:
    """Writes the title of one panel and, in small letters under it, how to read it."""
    axes.set_title(text, pad=20 if under else 8)
    if under:
        axes.annotate(
            under, (0, 1), (0, 6), xycoords='axes fraction', textcoords='offset points', fontsize=8.5, color=MUTED
        )
