"""Writes a report's files."""

from __future__ import annotations

import json
import pathlib

from composer_kd.presentation.tables import as_csv
from composer_kd.reports.numbers import as_mapping
from composer_kd.reports.page import as_html, as_markdown_page
from composer_kd.reports.report import Report

__all__ = ['write_report']

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
        (folder / name).write_text(text, encoding='utf-8', newline='\n')
    for name in _PLOTS:
        (folder / f'{name}.png').unlink(missing_ok=True)
    for name, drawing in report.drawings.items():
        (folder / f'{name}.png').write_bytes(drawing.png())
    return [folder / name for name in [*texts, *(f'{name}.png' for name in report.drawings)]]
