"""Writes the results as files: JSON with all values, CSV for spreadsheets, Markdown for reading."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from composer_kd.bench.columns import COLUMNS, MISSING, by_setting, notes_of
from composer_kd.bench.results import BenchResults, Row
from composer_kd.bench.text_tables import LEGEND as TEXT_LEGEND
from composer_kd.bench.text_tables import rows_of_texts, texts_in_markdown
from composer_kd.presentation.files import write_file
from composer_kd.presentation.tables import Table, as_csv, as_markdown
from composer_kd.presentation.units import count_text, number_text, seconds_text

__all__ = ['FILES', 'markdown', 'write']

FILES = ('bench.json', 'bench.csv', 'bench.md')
TEXT_FILE = 'bench_texts.csv'

LEGEND = """\
Latency: single calls with one sample, the device waited for before and after each; the IQR is that of the medians of
interleaved rounds, in which all models take turns in shuffled order. Speed-up: against the teacher in the same rounds,
median and quartiles. Samples/s: calls one after another, at the best of the batch sizes 1, 2, 4, ... Peak: the most
memory that answering this batch took beyond the weights. File and load: of the form that the backend loads, until the
first answer (in eager mode without building the module). Accuracy, agreement with the teacher and output match with
eager in %: through what was timed; the output match is how often the same class comes first as in eager fp32. bf16 and
fp16 cast weights and inputs (`model.to(dtype)`), and the logits back."""


def write(results: BenchResults, folder: pathlib.Path) -> None:
    """Writes ``bench.json``, ``bench.csv`` and ``bench.md``; for models of texts also ``bench_texts.csv``.

    Args:
        results: The results so far.
        folder: The folder, created if missing. Each file is replaced atomically: if the process is killed, the previous
            file remains.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / 'bench.json', json.dumps(results.as_mapping(), indent=2) + '\n')
    write_file(folder / 'bench.md', markdown(results))
    write_file(folder / 'bench.csv', as_csv([_flat(row) for row in results.rows]))
    texts = [line for row in results.rows for line in rows_of_texts(row)]
    if texts:
        write_file(folder / TEXT_FILE, as_csv(texts))
    else:
        (folder / TEXT_FILE).unlink(missing_ok=True)  # of an earlier benchmark


def _flat(row: Row) -> dict[str, Any]:
    latency, best, ratio = row.latency, row.best_throughput, row.speed_up
    return {
        'model': row.model,
        'role': row.role,
        'device': row.setting.device,
        'threads': row.setting.threads,
        'backend': row.setting.backend,
        'precision': row.setting.precision,
        'parameters': row.parameters,
        'flops': row.flops,
        'file_bytes': row.file_bytes,
        'load_seconds': row.load_seconds,
        **{f'latency_{key}': getattr(latency, key, None) for key in ('p50', 'p90', 'p99', 'iqr', 'calls')},
        **{f'speed_up_{key}': getattr(ratio, key, None) for key in ('against', 'median', 'low', 'high')},
        'best_batch': getattr(best, 'batch', None),
        'samples_per_second': getattr(best, 'samples_per_second', None),
        'samples_per_second_iqr': getattr(best, 'iqr', None),
        'samples_per_second_by_batch': '; '.join(
            f'{one.batch}: {one.failed if one.samples_per_second is None else f"{one.samples_per_second:.6g}"}'
            for one in row.throughput
        ),
        'tokens_per_second': getattr(best, 'tokens_per_second', None),
        'tokens_per_sample': getattr(best, 'tokens', None),
        'positions_per_sample': getattr(best, 'positions', None),
        'peak_memory_bytes': row.peak_memory_bytes,
        'energy_joules': row.energy_joules,
        'accuracy': row.accuracy,
        'agreement': row.agreement,
        'output_match': row.output_match,
        'failed': row.failed,
        'notes': '; '.join(row.notes),
    }


def markdown(results: BenchResults) -> str:
    """Formats the results as Markdown.

    Args:
        results: The results.

    Returns:
        A table of the models, a table for each setting, the warnings, and the environment.
    """
    models = {row.model: row for row in results.rows}
    lines = ['# What the models cost to run', '', LEGEND, '']
    if any(row.texts for row in results.rows):
        lines += [TEXT_LEGEND, '']
    if results.data:
        lines += [f'Evaluated on {results.samples:,} samples of {results.data}.', '']
    cells = [[row.model, row.role, number_text(row.parameters or 0), count_text(row.flops)] for row in models.values()]
    lines.append(_table(['model', 'role', 'parameters', 'FLOP per sample'], cells, left=2))
    for setting, rows in by_setting(results.rows):
        lines += ['', f'## {setting}', '', *_of_setting(rows)]
    lines += ['', '## Doubts', '', *[f'* {one}' for one in results.warnings]] if results.warnings else []
    lines += ['', '## Environment', '']
    lines.append(_table(['', ''], [[key, str(value)] for key, value in results.environment.items()], left=2))
    lines += ['', f'`{results.command}`, {seconds_text(results.seconds)}'] if results.command else []
    return '\n'.join(lines) + '\n'


def _of_setting(rows: Sequence[Row]) -> list[str]:
    done = [row for row in rows if row.failed is None]
    cells = [[row.model, *(column.cell(row) for column in COLUMNS)] for row in done]
    table = [_table(['model', *(column.heading for column in COLUMNS)], cells, left=1)] if done else []
    for title, headings, body in texts_in_markdown(rows):
        table += ['', f'### {title}', '', _table(headings, body, left=1)]
    notes = [f'* {note}' for note in notes_of(rows)]
    return [*table, *([''] if table and notes else []), *notes]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    return as_markdown(Table.of(headings, rows, left), MISSING)
