"""A report as one page that opens anywhere, and as Markdown."""

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
    """Writes a report as one HTML page: styles and plots are in it, and nothing else is loaded.

    Args:
        report: The report.

    Returns:
        The page. All text of runs, data and machines is escaped.
    """
    # The style is this package's own, and the plots are drawn here: matplotlib writes their text as outlines.
    plots = {name: Markup(drawing.svg()) for name, drawing in report.drawings.items()}
    style = Markup((_HERE / 'page.css').read_text(encoding='utf-8'))
    return render('reports/page.html', report=report, plots=plots, style=style)


def as_markdown_page(report: Report) -> str:
    """Writes a report in Markdown; its plots are the files ``<name>.png`` beside it.

    Args:
        report: The report.

    Returns:
        The text.
    """
    return render('reports/page.md.j2', report=report)


_PLOTS = ('pareto', 'speedups', 'throughput', 'curves', 'classes', 'calibration', 'confusions')


def write_report(report: Report, out: str | pathlib.Path) -> list[pathlib.Path]:
    """Writes ``report.html``, ``report.md``, ``report.json``, ``report.csv`` and a PNG for each plot.

    Plots of an earlier report that this one does not have are removed, so that they are not taken for its own.

    Args:
        report: The report.
        out: The folder, made if need be.

    Returns:
        The files, the page first.
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
