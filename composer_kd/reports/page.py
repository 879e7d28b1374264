"""A report as one page that opens anywhere, and as Markdown."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import jinja2
from markupsafe import Markup

from composer_kd.presentation.tables import Table, as_csv, as_markdown, markdown_text
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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # The style is this package's own, and the plots are drawn here: matplotlib writes their text as outlines.
    plots = {name: Markup(drawing.svg()) for name, drawing in report.drawings.items()}
    style = Markup((_HERE / 'page.css').read_text(encoding='utf-8'))
    return environment.get_template('page.html').render(report=report, plots=plots, style=style)


def as_markdown_page(report: Report) -> str:
    """Writes a report in Markdown; its plots are the files ``<name>.png`` beside it.

    Args:
        report: The report.

    Returns:
        The text.
    """
    return '\n\n'.join(_parts(report)) + '\n'


def _parts(report: Report) -> Iterator[str]:
    yield f'# {markdown_text(report.title)}'
    yield markdown_text(' '.join(report.verdict))
    yield markdown_text(report.evaluated)
    yield from _section('Models', report.models)
    for name, drawing in report.drawings.items():
        yield f'## {drawing.title}'
        yield f'![{markdown_text(drawing.title)}]({name}.png)'
        yield markdown_text(drawing.caption)
    yield from _section('What training cost', report.costs)
    for device, table in report.benchmark.items():
        yield from _section(f'Timings: {device}', table)
    if report.benchmark:
        yield markdown_text(report.about_timings)
    if report.warnings:
        yield '\n'.join(f'* {markdown_text(warning)}' for warning in report.warnings)
    yield from _section('Settings that differ', report.differences)
    yield from _lists(report)


def _section(title: str, table: Table | None) -> Iterator[str]:
    if table is not None:
        yield f'## {title}'
        yield as_markdown(table)


def _lists(report: Report) -> Iterator[str]:
    if report.notes:
        yield '## Notes'
        yield '\n'.join(f'* {markdown_text(note)}' for note in report.notes)
    commands = '\n'.join(' '.join(command.split()) for command in report.commands())
    if commands:
        yield '## To make it again'
        yield f'```bash\n{commands}\n```'
    for title, environment in report.environments():
        yield f'## {title}: machine and versions'
        yield '\n'.join(
            f'* {markdown_text(str(key))}: {markdown_text(str(value))}' for key, value in environment.items()
        )


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
