"""Writes a report as a self-contained HTML page, as Markdown, JSON and CSV."""

from __future__ import annotations

import json
import pathlib

from markupsafe import Markup

from composer_kd.presentation.files import write_file
from composer_kd.presentation.tables import as_csv
from composer_kd.presentation.templates import render
from composer_kd.reports.numbers import as_mapping
from composer_kd.reports.report import Report

__all__ = ['as_html', 'as_markdown_page', 'write_report']

_HERE = pathlib.Path(__file__).parent


def as_html(report: Report) -> str:
    """Renders a report as one HTML page that contains its styles and plots and loads nothing else.

    Args:
        report: The report.

    Returns:
        The page. All text that comes from runs, data and machines is escaped.
    """
    # Safe to insert unescaped: the style belongs to this package, and matplotlib escapes the text of plots.
    plots = {name: Markup(drawing.svg()) for name, drawing in report.drawings.items()}
    panels = {name: list(map(Markup, drawing.panels())) for name, drawing in report.drawings.items()}
    style = Markup((_HERE / 'page.css').read_text(encoding='utf-8'))
    return render('reports/page.html', report=report, plots=plots, panels=panels, style=style)


def as_markdown_page(report: Report) -> str:
    """Renders a report as Markdown, which refers to its plots as ``<name>.png`` in the same folder.

    Args:
        report: The report.

    Returns:
        The text.
    """
    return render('reports/page.md.j2', report=report)


_PLOTS = ('pareto', 'speedups', 'throughput', 'curves', 'classes', 'calibration', 'confusions')


def write_report(report: Report, out: str | pathlib.Path) -> list[pathlib.Path]:
    """Writes ``report.html``, ``report.md``, ``report.json``, ``report.csv`` and a PNG for each plot.

    Plots of an earlier report in the same folder are removed.

    Args:
        report: The report.
        out: The folder; created if it does not exist.

    Returns:
        The files that were written, the HTML page first.
    """
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        'report.html': as_html(report),
        'report.md': as_markdown_page(report),
        'report.json': json.dumps(as_mapping(report), indent=2, allow_nan=False) + '\n',
        'report.csv': as_csv(report.rows()),
    }
    for name, text in texts.items():
        write_file(folder / name, text)
    for name in _PLOTS:
        (folder / f'{name}.png').unlink(missing_ok=True)
    for name, drawing in report.drawings.items():
        write_file(folder / f'{name}.png', drawing.png())
    return [folder / name for name in [*texts, *(f'{name}.png' for name in report.drawings)]]
